"""A run as a typed, frozen object, and the rules between its fields."""
