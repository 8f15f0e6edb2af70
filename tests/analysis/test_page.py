"""analysis.report.page: one file that needs nothing else, in a real browser (Chromium, headless).

The tests in the browser are skipped where there is no Chromium with its driver:
`apt-get install chromium chromium-driver`, or what the system calls them.
"""

import json
import re
import shutil

import pytest
from support.report_runs import write_run

from analysis.claims import claims
from analysis.reading.runs import Runs
from analysis.report import catalogue, page, render
from tspin.runs.artifacts import SCORES
from tspin.tools.files import write_jsonl
from tspin.tools.parquet import write_rows

PIECES = ("table1", "figure2", "figure4c", "comparison")
PHONE, DESKTOP = 390, 1280
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOSTILE = "<img src=x onerror=window.ran=1>"  # no slash: it is part of a folder's name
MARKUP = "<b id='bold'>b</b><script>window.ran = 1</script></script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two methods, three seeds. T-SPIN's first run: p0 and p1 held out, p2 of training; p1's
    response after iteration 1 is markup."""
    root = tmp_path_factory.mktemp("page")
    for seed in range(3):
        for loss in ("spin", "tspin"):
            made = write_run(root / "runs", loss, seed=seed, scores=True)
            for t in (0, 1):
                write_jsonl(made.iteration(t).samples, [sample(i, t, loss) for i in range(3)])
    (root / "runs" / "broken").mkdir()
    runs = Runs.read(root / "runs")
    write(runs, root / "report")
    return root


def write(runs, out):
    pieces = catalogue.build(runs, PIECES, with_paper=True)
    images = render.images(pieces, [render.SHOWN])
    problems = [*runs.problems, "a < b: `make it`"]
    return page.write(runs, pieces, images, claims.judge(runs), out, problems)


def sample(i, t, loss):
    response = MARKUP if (i, t, loss) == (1, 1, "tspin") else f"y' {i} of {loss} at {t}"
    return {
        "id": f"p{i}", "split": "train" if i == 2 else "heldout", "prompt": f"Say {i}.",
        "annotated": str(i), "synthetic": response, "proto": f"first {i}",
    }  # fmt: skip


@pytest.fixture(scope="module")
def html(folder):
    return (folder / "report" / page.NAME).read_text(encoding="utf-8")


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_links_lead_beside_the_page_only(html):
    body = re.sub(r"<(script|style).*?</\1>", "", html, flags=re.S)
    targets = re.findall(r'(?:src|href)="([^"]*)"', body)
    kinds = {target.partition(":")[0] if ":" in target else target[:1] for target in targets}
    assert kinds <= {"data", "#", "t", "f", "c"}  # table1.csv, figure2.pdf, comparison.md
    assert "table1.tex" in targets and "figure2.pdf" in targets
    for target in targets:
        if target.startswith("#"):
            assert f'id="{target[1:]}"' in body


def test_an_id_is_given_once(html):
    ids = re.findall(r'<[a-z]\w*[^>]* id="([^"]*)"', html)
    assert len(ids) > 20 and len(ids) == len(set(ids))


def test_texts_are_escaped(html):
    assert "<b id='bold'>" not in html and "window.ran = 1</script>" not in html
    assert "a &lt; b: <code>make it</code>" in html


@pytest.mark.slow
def test_the_same_runs_give_the_same_page(folder, html):
    runs = Runs.read(folder / "runs")
    again = write(runs, folder / "again")
    assert again.read_text(encoding="utf-8") == html


def test_samples_by_hand(folder):
    """scores.parquet after iteration 1: y -1 + 0.1, y' -3, y0 -4, each also the reward."""
    shown = page.samples(Runs.read(folder / "runs"))
    labels = [(run["label"], run["seed"]) for run in shown["runs"]]
    assert labels == [(label, seed) for label in ("SPIN", "T-SPIN") for seed in range(3)]
    first = shown["runs"][3]["prompts"][0]
    assert (first["id"], first["split"], first["proto"]) == ("p0", "heldout", "first 0")
    assert first["iterations"][1] == {
        "t": 1,
        "response": "y' 0 of tspin at 1",
        "scores": {"annotated": [-0.9, -0.9], "synthetic": [-3, -3], "proto": [-4, -4]},
    }


def test_samples_are_bounded_and_say_so(folder, monkeypatch):
    runs = Runs.read(folder / "runs")
    monkeypatch.setattr(page, "MAX_RUNS", 2)
    monkeypatch.setattr(page, "MAX_TEXT", 5)
    few = page.samples(runs)
    assert [run["seed"] for run in few["runs"]] == [0, 0]  # a seed of each method first
    assert few["runs"][0]["prompts"][0]["iterations"][0]["response"] == "y' 0  [cut, 17 characters]"
    assert few["bound"].startswith("2 of 6 runs, at most 3 prompts of each")
    monkeypatch.setattr(page, "MAX_SAMPLES", len(json.dumps(few["runs"])) - 1)
    fewer = page.samples(runs)
    assert [len(run["prompts"]) for run in fewer["runs"]] == [1, 1]
    assert "at most 1 prompts" in fewer["bound"]


def test_samples_of_another_layout_cost_only_their_run(tmp_path):
    for loss in ("spin", "tspin"):
        made = write_run(tmp_path, loss)
    write_jsonl(made.iteration(1).samples, [{"prompt": "Say 0.", "answer": "0"}])
    runs = Runs.read(tmp_path)
    assert [run["label"] for run in page.samples(runs)["runs"]] == ["SPIN"]
    (said,) = runs.problems
    assert said == f"{made.path}: its samples cannot be shown (KeyError('id'))"


def test_a_number_that_is_not_finite_is_none(tmp_path):
    """JSON has no NaN; SFT has no reward."""
    made = write_run(tmp_path, "tspin", iterations=1)
    rows = [
        {"id": "p0", "split": "heldout", "source": 0, "role": role, "logp": logp,
         "num_tokens": 1, "ref_logp": None, "reward": None}
        for role, logp in (("annotated", -1.0), ("synthetic", float("nan")))
    ]  # fmt: skip
    write_rows(made.iteration(0).scores, rows, SCORES)
    shown = page.samples(Runs.read(tmp_path))["runs"][0]["prompts"][0]["iterations"][0]
    assert shown["scores"] == {"annotated": [-1.0, None], "synthetic": [None, None]}


# --- what is not ours ---


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A page of runs where every text that somebody else may write is markup."""
    root = tmp_path_factory.mktemp("hostile")
    for seed in range(2):
        made = write_run(
            root / "runs", "tspin", seed=seed, scores=True, model=HOSTILE, data=HOSTILE,
            apart=HOSTILE,
        )  # fmt: skip
        config = made.config.read_text(encoding="utf-8")
        made.config.write_text(config.replace("label: T-SPIN", f'label: "{MARKUP}"'))
        words = dict.fromkeys(("prompt", "annotated", "synthetic", "proto", MARKUP), MARKUP)
        for t in (0, 1):
            write_jsonl(made.iteration(t).samples, [{"id": MARKUP, "split": MARKUP, **words}])
    runs = Runs.read(root / "runs")
    pieces = catalogue.build(runs, ("comparison",), with_paper=True)
    images = render.images(pieces, [render.SHOWN])
    return page.write(runs, pieces, images, claims.judge(runs), root / "report", [MARKUP])


def test_names_and_labels_are_escaped_too(hostile):
    html = hostile.read_text(encoding="utf-8")
    body = re.sub(r"<(script|style).*?</\1>", "", html, flags=re.S)
    assert "&lt;img src=x" in body and "&lt;b id=" in body  # they are shown
    assert "<img src=x" not in html and "<b id=" not in html and "ran = 1</script>" not in html


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium with chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture
def at(browser, folder):
    """Opens the page at a width of CSS pixels. -> the browser"""

    def opened(width):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get((folder / "report" / page.NAME).as_uri())
        return browser

    return opened


def find(browser, selector):
    return browser.find_elements("css selector", selector)


def texts(browser, selector):
    return [element.text for element in find(browser, selector)]


def becomes(browser, read, expected):
    """Whether `read()` is `expected` within some seconds: sorting and choosing take a moment."""
    from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
    from selenium.webdriver.support.wait import WebDriverWait

    waiting = WebDriverWait(browser, 5, 0.05, [StaleElementReferenceException])
    try:
        return waiting.until(lambda _: read() == expected)
    except TimeoutException:
        assert read() == expected  # with what it is instead


def choose(browser, name, text):
    from selenium.webdriver.support.select import Select

    Select(find(browser, f"#browse select[name={name}]")[0]).select_by_visible_text(text)


def test_it_loads_in_silence_and_alone(at):
    opened = at(DESKTOP)
    assert opened.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = {
        message["params"]["request"]["url"].partition(",")[0]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert opened.current_url in asked
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert len([url for url in asked if url.startswith("file:")]) == 1


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_nothing_is_wider_than_the_page(at, width):
    opened = at(width)
    root = opened.find_element("tag name", "html")
    assert width - 20 <= int(root.get_property("clientWidth")) <= width  # but for a scroll bar
    assert root.get_property("scrollWidth") <= root.get_property("clientWidth")
    wide = opened.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll')"
        " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []


def test_headings(at):
    opened = at(DESKTOP)
    assert texts(opened, "h1") == ["Triplet self-play fine-tuning: 6 runs"]
    assert texts(opened, "h2") == [
        "Claims", "Tables and figures", "Samples", "Configurations", "Problems"
    ]  # fmt: skip
    assert texts(opened, "#pieces > section > h3") == [
        "Table 1", "Figure 2", "Figure 4c", "Comparison"
    ]  # fmt: skip
    assert len(find(opened, ".claim")) == 9
    assert texts(opened, "#claim-gains .finding .badge") == ["supported"]
    assert "broken: no configuration in it" in find(opened, "#problems ul")[0].text


def test_figures_are_drawn(at):
    opened = at(DESKTOP)
    sizes = opened.execute_script(
        "return [...document.querySelectorAll('img')].map(i => i.naturalWidth)"
    )
    assert len(sizes) == 4 and all(sizes)


def test_a_click_sorts_by_number(at):
    """Right, greedy: 40 to 54%, the interval printed behind it; a second click turns it round."""
    opened = at(DESKTOP)
    rows, heads = "#piece-table1 tbody tr", find(opened, "#piece-table1 thead th")
    (head,) = [element for element in heads if element.text == "accuracy, greedy (%)"]
    place = heads.index(head) + 1

    def column():
        return [float(text.split()[0]) for text in texts(opened, f"{rows} td:nth-child({place})")]

    before = column()
    assert before != sorted(before)
    head.click()
    assert becomes(opened, column, sorted(before))
    head.click()
    assert becomes(opened, column, sorted(before, reverse=True))


def test_samples_are_searched_and_filtered(at):
    opened = at(DESKTOP)
    (search,) = find(opened, "#browse input")

    def prompts():
        return texts(opened, "#browser .sample > p b")

    assert prompts() == ["Say 0.", "Say 1.", "Say 2."]
    choose(opened, "split", "train")
    assert becomes(opened, prompts, ["Say 2."])
    choose(opened, "split", "all")
    search.send_keys("FIRST 1")  # in y0, in other letters
    assert becomes(opened, prompts, ["Say 1."])
    assert texts(opened, "#browse output") == ["1 of 3 prompts"]
    assert "y' 1 of spin at 1" in find(opened, "#browser")[0].text
    choose(opened, "run", "T-SPIN, seed 0 (micro on micro)")
    assert becomes(opened, lambda: "y' 1 of tspin at 0" in texts(opened, "#browser")[0], True)


def test_markup_of_a_response_is_shown_not_run(at):
    opened = at(DESKTOP)
    choose(opened, "run", "T-SPIN, seed 0 (micro on micro)")
    assert becomes(opened, lambda: MARKUP in texts(opened, "#browser .text"), True)
    assert opened.execute_script("return window.ran") is None and not find(opened, "#bold")


def test_markup_anywhere_is_shown_not_run(browser, hostile):
    browser.get(hostile.as_uri())
    assert becomes(browser, lambda: MARKUP in texts(browser, "#browser .text"), True)
    assert browser.execute_script("return window.ran") is None and not find(browser, "#bold")
    assert not find(browser, "img[src=x]") and browser.get_log("browser") == []


def test_log_likelihoods_stand_beside_responses(at):
    """y after iteration 1: -1 + 0.1"""
    card = find(at(DESKTOP), "#browser .sample:first-child .response:nth-child(4)")[0].text
    assert card.splitlines() == [
        "synthetic y' of iteration 1", "y' 0 of spin at 1", "log-lik. reward",
        "y' -3.00 -3.00", "y -0.90 -0.90", "y0 -4.00 -4.00",
    ]  # fmt: skip


def test_on_paper_the_controls_are_gone(at):
    opened = at(DESKTOP)
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not find(opened, "#browse")[0].is_displayed()
        assert find(opened, "#claims")[0].is_displayed()
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
