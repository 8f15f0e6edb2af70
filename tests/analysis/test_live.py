"""template/live.js in a real browser: pages that renew themselves, and the switch of settings."""

import json

import pytest
from support.pages import becomes, find, served, texts
from support.report_runs import add_triplets, write_run

from analysis.reading.runs import Runs
from analysis.report import overview
from analysis.report.server import Site
from tspin.tools.files import write_json, write_jsonl

NAME = "micro-tspin-micro-s0"
SECONDS = 60  # until a page has noticed, on a busy machine
# A promise that the page keeps when it has renewed itself: made before what it is to notice.
LISTEN = (
    "window.renewal = new Promise(done =>"
    " document.addEventListener('renewed', () => done(true), {once: true}))"
)
AWAIT = "window.renewal.then(arguments[arguments.length - 1])"


@pytest.fixture
def half_done(tmp_path):
    """A run whose second iteration has not ended, and what its done.json will say."""
    folder = add_triplets(write_run(tmp_path, "tspin"))
    done = json.loads(folder.iteration(1).done.read_text(encoding="utf-8"))
    folder.iteration(1).done.unlink()
    return folder, done


@pytest.mark.parametrize("page", [f"runs/{NAME}.html", "index.html"])
def test_an_open_page_shows_what_its_run_has_done_meanwhile(browser, half_done, page):
    """Iteration 1 ends: the sentence, the table and the counts are new; what was typed stays."""
    folder, done = half_done
    browser.set_script_timeout(SECONDS)
    with served(Site(folder.path.parent)) as server:
        browser.get(server.address + page)
        assert "40.0% to 46.0%" in find(browser, "#main")[0].text
        if page != "index.html":
            find(browser, "#browse input[name=search]")[0].send_keys("y0 of")
        browser.execute_script(LISTEN)
        write_json(folder.iteration(1).done, done)
        assert browser.execute_async_script(AWAIT)
        text = find(browser, "#main")[0].text
        assert "40.0% to 52.0%" in text and "40.0% to 46.0%" not in text
        if page == "index.html":
            assert texts(browser, "#runs tbody td:nth-child(3)") == ["2 of 2"]
        else:
            assert "2 of 2 iterations done" in text
            rows = texts(browser, "table[aria-label=iterations] tbody td:first-child")
            assert rows == ["base", "0", "1"]
            (search,) = find(browser, "#browse input[name=search]")
            assert search.get_property("value") == "y0 of"


def test_what_changed_before_the_first_look_is_seen_too(browser, half_done):
    """The page was made, and then the iteration ended, before a script of it ran."""
    folder, done = half_done
    site = Site(folder.path.parent)
    answer, made = site.answer, []

    def answer_and_end(path, query):
        result = answer(path, query)
        if path.endswith(".html") and not made:
            made.append(result[1])
            write_json(folder.iteration(1).done, done)
        return result

    site.answer = answer_and_end
    with served(site) as server:
        browser.get(f"{server.address}runs/{NAME}.html")
        assert becomes(browser, lambda: "2 of 2 iterations" in find(browser, "#main")[0].text, True)
    assert "1 of 2 iterations done" in made[0]


def test_an_alert_comes_up_on_an_open_page(browser, half_done):
    """The gradient of the iteration that goes on is zero."""
    folder, _ = half_done
    browser.set_script_timeout(SECONDS)
    metrics = folder.iteration(1).metrics
    steps = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    with served(Site(folder.path.parent)) as server:
        browser.get(f"{server.address}index.html")
        assert find(browser, ".alerts") == []
        browser.execute_script(LISTEN)
        write_jsonl(metrics, [row | {"grad_norm": 0.0} for row in steps])
        assert browser.execute_async_script(AWAIT)
        assert any("the gradient is zero" in text for text in texts(browser, ".alerts li"))


# --- the switch of settings ---


@pytest.fixture(scope="module")
def two_settings(tmp_path_factory):
    """The first page of a run on micro and a run on other data."""
    root = tmp_path_factory.mktemp("settings")
    write_run(root / "runs", "tspin")
    write_run(root / "runs", "tspin", model="zephyr", data="ultrachat", benchmarks=True)
    page = root / "index.html"
    page.write_text(overview.page(Runs.read(root / "runs"), [], paper=False), encoding="utf-8")
    return page


def shown(browser):
    """Headings of settings and names of runs that can be seen."""
    elements = find(browser, "[data-setting] h2, #runs tbody td:last-child")
    return [element.text for element in elements if element.is_displayed()]


def test_a_setting_is_chosen_by_a_switch(browser, two_settings):
    """The first one at first; then the other, then both."""
    of_micro = ["micro on micro", NAME]
    of_zephyr = ["zephyr on ultrachat", "zephyr-tspin-ultrachat-s0"]
    browser.get(two_settings.as_uri())
    micro, zephyr, every = find(browser, "[data-switch] label")
    assert [label.text for label in (micro, zephyr, every)] == [of_micro[0], of_zephyr[0], "all"]
    assert becomes(browser, lambda: shown(browser), of_micro)
    zephyr.click()
    assert shown(browser) == of_zephyr
    every.click()
    assert sorted(shown(browser)) == sorted(of_micro + of_zephyr)
    micro.click()
    assert shown(browser) == of_micro
