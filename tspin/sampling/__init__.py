"""Responses: requests, and the engines that answer them."""
