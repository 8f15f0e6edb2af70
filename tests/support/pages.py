"""Chromium, and what a page in it shows."""

import shutil
import threading
from contextlib import contextmanager

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium():
    """A browser without a window. LookupError where it, its driver or selenium is not installed."""
    try:
        from selenium import webdriver
    except ImportError:
        raise LookupError("selenium is not installed") from None
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        raise LookupError("no Chromium with chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield opened
    finally:
        opened.quit()


@contextmanager
def served(site):
    """A Site of analysis.report.server at an address of its own. -> its server"""
    from analysis.report.server import Server

    with Server(site) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def find(browser, selector):
    return browser.find_elements("css selector", selector)


def texts(browser, selector):
    return [element.text for element in find(browser, selector)]


def becomes(browser, read, expected):
    """Whether `read()` is `expected` within some seconds: sorting and choosing take a moment."""
    from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
    from selenium.webdriver.support.wait import WebDriverWait

    waiting = WebDriverWait(browser, 20, 0.05, [StaleElementReferenceException])
    try:
        return waiting.until(lambda _: read() == expected)
    except TimeoutException:
        assert read() == expected  # with what it is instead
