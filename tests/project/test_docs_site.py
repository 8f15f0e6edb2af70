"""The site of `make docs`: built once, then read as files and, over loopback, in Chromium."""

import json
import re
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.slow  # builds the site

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site. A warning is an error, as in `make docs`."""
    pytest.importorskip("material", reason="the site is built by mkdocs-material: extra docs")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    config.plugins.on_shutdown()
    return folder


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(site):
    """Where the site is served: scripts may start workers there, which files may not."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def pages(site):
    """The addresses of all pages, from the site's root."""
    return [str(page.relative_to(site)) for page in sorted(site.rglob("index.html"))]


def hosts(browser):
    """Whom the browser has asked for something since the last call."""
    messages = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return {urlsplit(event["request"]["url"]).netloc for event in sent} - {""}


class Parts(HTMLParser):
    """What a page is made of.

    kinds    its scripts, the way to the root left out, and the names and classes of its elements
    fetched  addresses that a browser asks for without being told to
    """

    def __init__(self, text):
        super().__init__()
        self.kinds, self.fetched, self._in_script = set(), set(), False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.kinds |= {(tag, name) for name in ["", *(values.get("class") or "").split()]}
        self._in_script = tag == "script"
        self.fetched |= {values[key] for key in ("src", "srcset", "data") if values.get(key)}
        self.fetched |= (
            {values["href"]} if tag == "link" and values.get("rel") != "canonical" else set()
        )

    def handle_data(self, data):
        if self._in_script:
            self.kinds.add(("script", re.sub(r"(\.\.?/?)+", "", data)))
            self._in_script = False


def test_every_page_asks_no_other_host(site):
    """Nor does a style sheet."""
    asked = {page: Parts((site / page).read_text("utf-8")).fetched for page in pages(site)}
    assert len(asked) > 20 and all(asked.values())
    sheets = [path.read_text("utf-8") for path in site.rglob("*.css")]
    of_sheets = {url for text in sheets for url in re.findall(r"url\([\"']?([^)\"']+)", text)}
    of_sheets |= {url for text in sheets for url in re.findall(r"@import\s+[\"']([^\"']+)", text)}
    addresses = of_sheets.union(*asked.values())
    assert {urlsplit(url).netloc for url in addresses} == {""}


def test_no_page_has_an_error(site, address, browser):
    """Opened are pages that have together each script and each kind of element of them all."""
    parts = {page: Parts((site / page).read_text("utf-8")).kinds for page in pages(site)}
    missing, asked = set().union(*parts.values()), set()
    browser.get("about:blank")
    hosts(browser)  # the browser is every test's: what others asked for
    while missing:
        page = max(parts, key=lambda page: len(parts[page] & missing))
        missing -= parts.pop(page)
        browser.get(address + page)
        errors = [entry["message"] for entry in browser.get_log("browser")]
        assert errors == [], page
        asked |= hosts(browser)
    assert asked == {urlsplit(address).netloc}


def test_the_search_finds_a_page(address, browser):
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get(address + "index.html")
    field = browser.find_element("css selector", ".md-search__input")
    browser.execute_script("arguments[0].focus()", field)
    field.send_keys("misaligned")

    def links(_):
        results = browser.find_elements("css selector", ".md-search-result__link")
        return [result.get_attribute("href") for result in results]

    results = WebDriverWait(browser, 20).until(links)
    assert any("glossary" in result for result in results)


def test_the_first_page_is_one_screen(address, browser):
    """At 1280 by 900 nothing has to be scrolled but the footer."""
    size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(address + "index.html")
    text = browser.find_element("css selector", "article.md-content__inner")
    assert text.rect["y"] + text.rect["height"] <= 900


def test_formulas_are_mathml(site):
    """Every $...$ of the pages was converted, and none is left for a script to set."""
    for name in ("method", "objectives"):
        source = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        text = (site / name / "index.html").read_text(encoding="utf-8")
        assert text.count("<math") == source.replace("$$", "$").count("$") // 2 > 10
        assert "arithmatex" not in text
    assert not any("arithmatex" in (site / page).read_text("utf-8") for page in pages(site))


def test_links_out_of_docs_are_paths(site):
    text = (site / "api" / "index.html").read_text(encoding="utf-8")
    assert "<code>examples/loop.py</code>" in text and 'href="../examples' not in text
    tutorial = (site / "tutorials" / "own-data" / "index.html").read_text(encoding="utf-8")
    assert "README (<code>README.md</code>)" in tutorial
    assert '<a href="../../data/">your own data</a>' in tutorial
