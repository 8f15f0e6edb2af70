"""What a page in a browser shows, for tests of it."""


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
