"""The pages of a report: files that need nothing else, in a real browser (Chromium, headless).

The renewal of pages and the switch of settings are in test_live.py.
"""

import json
import re
import shlex
from pathlib import Path
from urllib.parse import unquote

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from support.pages import becomes, find, texts
from support.report_runs import add_triplets, of_each_kind, write_run

from analysis.claims import claims
from analysis.figures.pieces import Drawing
from analysis.reading import measures
from analysis.reading.runs import Runs
from analysis.report import (
    catalogue,
    comparison_page,
    curves,
    overview,
    page,
    render,
    run_page,
    site,
)
from tspin.cli import command
from tspin.tools.files import write_jsonl, write_text

pytestmark = pytest.mark.slow  # makes pages

PIECES = (
    "table1",
    "figure2",
    "table2",
    "table4",
    "figure4a",
    "figure4c",
    "objectives",
    "comparison",
)
PHONE, DESKTOP = 390, 1280
HOSTILE = "<img src=x onerror=window.ran=1>"  # no slash: it is part of a folder's name
MARKUP = "<b id='bold'>b</b><script>window.ran = 1</script></script>"
TSPIN, SPIN = "micro-tspin-micro-s0", "micro-spin-micro-s0"
ROOT = Path(__file__).resolve().parents[2]
EVERY = ("index.html", f"runs/{TSPIN}.html", "paper.html", "../two/compare.html")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two methods, three seeds, a run that has finished nothing, in a setting of its own; y' of p1
    of T-SPIN's first run is markup."""
    root = tmp_path_factory.mktemp("page")
    for seed in range(3):
        for loss in ("spin", "tspin"):
            made = write_run(root / "runs", loss, seed=seed)
            own = made.path.name == TSPIN
            add_triplets(made, tokens=own, text=lambda i, what, own=own: (
                MARKUP if own and (i, what) == (1, "y' at 1") else f"{what} of {i}"))  # fmt: skip
    begun = write_run(root / "runs", "tspin", model="zephyr", data="ultrachat", iterations=1)
    begun.iteration(0).done.unlink()
    (root / "runs" / "broken").mkdir()
    runs = Runs.read(root / "runs")
    write(runs, root / "report")
    sides = (comparison_page.side(root / "runs" / name, "") for name in (TSPIN, SPIN))
    write_text(root / "two" / "compare.html", comparison_page.page(*sides))
    return root


def write(runs, out):
    pieces = catalogue.build(runs, PIECES, with_paper=True)
    images = render.images(pieces, [render.SHOWN])
    page.write(runs, pieces, images, claims.judge(runs), out)
    site.write(runs, out, [*runs.problems, "a < b: `make it`"])
    return {path.name: path.read_text(encoding="utf-8") for path in out.rglob("*.html")}


@pytest.fixture(scope="module")
def pages(folder):
    """name -> text of every page."""
    out = folder / "report"
    return {path.name: path.read_text(encoding="utf-8") for path in out.rglob("*.html")}


# --- the files ------------------------------------------------------------------------------------


def test_there_is_a_page_of_every_run(folder, pages):
    names = {path.parent.name for path in (folder / "runs").glob("*/config.yaml")}
    assert {*pages} == {"index.html", "paper.html"} | {f"{name}.html" for name in names}


def test_links_lead_to_other_pages_and_files(folder, pages):
    """Of tables and figures that `write` of pieces leaves: the files beside the paper's page."""
    for name, html in pages.items():
        body = re.sub(r"<(script|style).*?</\1>", "", html, flags=re.S)
        at = folder / "report" / ("runs" if name.startswith(("micro", "zephyr")) else "")
        for target in re.findall(r'(?:src|href)="([^"]*)"', body):
            if target.startswith("#"):
                assert f'id="{target[1:]}"' in body, (name, target)
            elif target.endswith(".html"):
                assert (at / unquote(target)).is_file(), (name, target)
            else:
                ok = r"data:.*|[\w.-]+\.(csv|md|tex|pdf|png)"
                assert re.fullmatch(ok, target, re.S), (name, target)


def test_an_id_is_given_once(pages):
    for name, html in pages.items():
        ids = re.findall(r'<[a-z]\w*[^>]* id="([^"]*)"', html)
        assert len(ids) == len(set(ids)), name


def test_texts_are_escaped(pages):
    for html in pages.values():
        assert "<b id='bold'>" not in html and "window.ran = 1</script>" not in html
    assert "a &lt; b: <code>make it</code>" in pages["index.html"]


def test_the_same_runs_give_the_same_pages(folder, pages):
    assert write(Runs.read(folder / "runs"), folder / "again") == pages


def test_it_opens_with_what_happened(pages):
    """T-SPIN, by rule: 42% to 54%; said before any table."""
    text = re.sub(r"<(script|style).*?</\1>", "", pages["index.html"], flags=re.S)
    sentence = "42.0% to 54.0%, +12.0 points [12.0, 12.0] after 2 iterations, 3 seeds: better"
    assert 0 < text.index(sentence) < text.index("<table")
    assert "42.0% to 50.0%, +8.0 points" in text  # SPIN


def test_a_run_without_a_finished_iteration_makes_no_setting(folder, pages):
    runs = Runs.read(folder / "runs")
    assert [str(setting) for setting in runs.settings()] == ["micro on micro"]
    assert "zephyr on ultrachat</h2>" not in pages["index.html"]
    assert "zephyr-tspin-ultrachat-s0" in pages["index.html"]  # it is a run all the same


def test_nothing_stands_twice_and_no_axis_is_empty(folder, pages):
    """Objectives are the first page's curves; Table 4 and Figure 4a have no runs, Table 2 one of
    its two methods, and the grid of Figure 4c a single cell: none of them is drawn."""
    html = pages["paper.html"]
    drawn = set(re.findall(r'<article class="piece" id="piece-([\w-]+)"', html))
    assert drawn == {"table1", "table1-paper", "table2-paper", "figure2", "figure2-paper",
                     "table4-paper",
                     "figure4a-paper", "comparison", "comparison-figure"}  # fmt: skip
    assert "not enough data" not in html and "no runs" not in html


def test_the_claims_name_the_studies_that_judged_them(pages):
    named = set(re.findall(r"docs/(paper-[\w-]+\.md)", pages["paper.html"]))
    assert named == {"paper-in-miniature.md", "paper-at-135m.md"}
    for name in named:
        assert "\n## Verdicts\n" in (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_what_has_no_runs_is_a_list_of_commands_that_compose(pages, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    commands = set()
    for name in ("index.html", "paper.html"):
        section = pages[name].partition('<section id="lacking"')[2].partition("</section>")[0]
        commands |= set(re.findall(r"<li><code>(.*?)</code>", section))
    assert len(commands) > 3
    for text in of_each_kind(commands):
        python, script, *arguments = shlex.split(text.replace("&#39;", "'").replace("&#34;", '"'))
        assert (python, script) == ("python", "main.py") and command.check(arguments).points


@pytest.fixture(scope="module")
def far_apart(tmp_path_factory):
    """Two seeds that end with 26 and 46 of 50 right: Student's interval of their mean of 72% goes
    from -182 to 326%. -> the runs"""
    root = tmp_path_factory.mktemp("apart")
    for seed in (0, 20):
        write_run(root, "tspin", seed=seed)
    return Runs.read(root)


def test_bands_of_shares_stay_within_0_and_100(far_apart):
    """Those that the figures of pieces are drawn from: the end's is all of it."""
    for piece in catalogue.build(far_apart, ("figure2", "objectives")):
        if isinstance(piece, Drawing):
            shares = piece.data[piece.data["key"].str.startswith("exact_match")]
            assert (shares["low"].min(), shares["high"].max()) == (0, 100), piece.name


def test_axes_of_shares_end_at_0_and_100(far_apart):
    """An axis is as long as its bands: 100% is the last number that stands there."""
    values = measures.values(far_apart, shown := measures.columns(far_apart))
    pictures = [curves.measure(values.drop(columns="stderr"), it, it.key)
                for it in shown if it.unit == "%"]  # fmt: skip
    assert len(pictures) == 2
    for picture in pictures:
        numbers = re.findall(r">(\S?\d+)</text>", picture.svg)
        ticks = [int(text.replace("\u2212", "-")) for text in numbers]
        assert min(ticks) == 0 and max(ticks) == 100


@pytest.mark.parametrize("low", [-123.456, 0.0, 1.4475])
@pytest.mark.parametrize("width", [1e-7, 0.012, 1.0, 987.6, 1e9])
def test_words_and_numbers_of_a_small_picture_are_inside_it(low, width):
    drawn = []

    def draw(axes):
        drawn.append(axes)
        axes.plot([0, 5], [low, low + width])
        axes.set(xlabel="iterations of training", ylabel="log-likelihood (nats)")

    curves.svg(draw, "name")
    (axes,) = drawn
    FigureCanvasAgg(axes.figure)
    inside = axes.get_tightbbox()
    assert inside.x0 >= 0 and inside.y0 >= 0
    assert inside.x1 <= axes.figure.bbox.x1 and inside.y1 <= axes.figure.bbox.y1


def test_intervals_of_a_share_end_at_100(tmp_path):
    """20, 23 and 26 of 26 right: Wilson's, as on the console; of 100% 1 / (1 + 1.96^2 / 26)."""
    runs = Runs.read_one(write_run(tmp_path, "tspin", heldout=26).path)
    table = run_page.iterations(runs, next(iter(runs)))
    greedy = table["head"].index("accuracy, greedy (%)")
    assert [row[greedy] for row in table["rows"]] == [
        "76.9 [61.4, 87.5]", "88.5 [69.0, 96.4]", "100.0 [87.1, 100.0]"
    ]  # fmt: skip


def test_a_runs_report_is_one_small_file_in_its_folder(tmp_path):
    made = add_triplets(write_run(tmp_path, "tspin"))
    path = run_page.write(made.path)
    html = path.read_text(encoding="utf-8")
    assert path == made.path / "report.html" and len(html) < 500_000
    assert "40.0% to 52.0%" in html and "y0 2" in html
    assert not re.search(r'(src|href)="(?!#|data:)', re.sub(r"<script.*?</script>", "", html))


def test_a_report_that_cannot_be_made_is_a_line_of_the_log(tmp_path, caplog):
    made = write_run(tmp_path, "tspin")
    made.config.write_text("no: run")
    assert run_page.at_end(made.path) is None
    assert "no report.html: ValueError" in caplog.text


def test_many_prompts_stay_outside_the_page(tmp_path, monkeypatch):
    made = add_triplets(write_run(tmp_path / "runs", "tspin"))
    monkeypatch.setattr(site, "INSIDE", 10)
    monkeypatch.setattr(site, "MOST", 2)
    runs = Runs.read(tmp_path / "runs")
    site.write_run(runs, next(iter(runs)), tmp_path)
    html = (tmp_path / "runs" / f"{made.path.name}.html").read_text()
    script = (tmp_path / "runs" / f"{made.path.name}.js").read_text()
    assert '"total": 4' in html and "y0 0" not in html
    rows = json.loads(script.removeprefix("window.tspinRows = ").removesuffix(";\n"))
    assert len(rows) == 2


def test_alerts_are_said_on_the_first_page(tmp_path):
    """log pi(y) falls from -9.75 to -40, and the gradient is zero."""
    made = write_run(tmp_path, "tspin", iterations=1)
    steps = [json.loads(line) for line in made.iteration(0).metrics.read_text().splitlines()]
    write_jsonl(made.iteration(0).metrics, [
        row | {"logps/annotated": -10.0 - 10 * i, "grad_norm": 0.0} for i, row in enumerate(steps)
    ])  # fmt: skip
    runs = Runs.read(tmp_path)
    html = overview.page(runs, [])
    assert "log pi(y) has fallen from -10.0 to -40.0 nats" in html
    assert "the gradient is zero" in html


# --- what is not ours ---


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A report of runs where every text that somebody else may write is markup."""
    root = tmp_path_factory.mktemp("hostile")
    for seed in range(2):
        made = write_run(
            root / "runs", "tspin", seed=seed, model=HOSTILE, data=HOSTILE, apart=HOSTILE,
        )  # fmt: skip
        config = made.config.read_text(encoding="utf-8")
        made.config.write_text(config.replace("label: T-SPIN", f'label: "{MARKUP}"'))
        add_triplets(made, text=lambda i, what: MARKUP, tokens=seed == 0)
    runs = Runs.read(root / "runs")
    pieces = catalogue.build(runs, ("comparison",), with_paper=True)
    images = render.images(pieces, [render.SHOWN])
    page.write(runs, pieces, images, claims.judge(runs), root / "report")
    site.write(runs, root / "report", [MARKUP])
    return root / "report"


def test_names_and_labels_are_escaped_too(hostile):
    for path in hostile.rglob("*.html"):
        html = path.read_text(encoding="utf-8")
        body = re.sub(r"<(script|style).*?</\1>", "", html, flags=re.S)
        assert "&lt;img src=x" in body
        assert "<img src=x" not in html and "<b id=" not in html and "ran = 1</script>" not in html


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture
def at(browser, folder):
    """Opens a page at a width of CSS pixels. -> the browser"""

    def opened(width, name=f"runs/{TSPIN}.html"):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get((folder / "report" / name).resolve().as_uri())
        return browser

    return opened


def choose(browser, name, text):
    from selenium.webdriver.support.select import Select

    Select(find(browser, f"#browse select[name={name}]")[0]).select_by_visible_text(text)


def prompts(browser):
    return texts(browser, "#browser .sample > p b")


def test_it_loads_in_silence_and_alone(at):
    for name in EVERY:
        opened = at(DESKTOP, name)
        assert opened.get_log("browser") == []
        logged = [
            json.loads(entry["message"])["message"] for entry in opened.get_log("performance")
        ]
        asked = {
            message["params"]["request"]["url"].partition(",")[0]
            for message in logged
            if message["method"] == "Network.requestWillBeSent"
        }
        assert opened.current_url in asked
        assert len([url for url in asked if not url.startswith("data:")]) == 1


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("name", EVERY)
def test_nothing_is_wider_than_the_page(at, width, name):
    opened = at(width, name)
    root = opened.find_element("tag name", "html")
    assert width - 20 <= int(root.get_property("clientWidth")) <= width  # but for a scroll bar
    assert root.get_property("scrollWidth") <= root.get_property("clientWidth")
    wide = opened.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg')"
        " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []


def test_seven_runs_fit_on_a_few_screens(at):
    height = at(PHONE, "index.html").execute_script("return document.documentElement.scrollHeight")
    assert height < 4 * 844


def test_a_click_sorts_runs_by_number(at):
    """40% to 52% of seed 0 up to 44% to 56% of seed 2; a second click turns it round."""
    opened = at(DESKTOP, "index.html")
    (head,) = [
        it for it in find(opened, "#runs thead th") if it.text.startswith("from the initial")
    ]

    def column():
        shown = texts(opened, "#runs tbody td:nth-child(5)")
        return [float(text.split()[2].rstrip("%,")) for text in shown if text != "-"]

    before = sorted(column())
    head.click()
    assert becomes(opened, column, before)
    head.click()
    assert becomes(opened, column, before[::-1])


def test_samples_are_sorted_searched_and_filtered(at):
    opened = at(DESKTOP)
    assert becomes(opened, lambda: prompts(opened), [f"prompt of {i}" for i in range(4)])
    choose(opened, "order", "largest gain of log pi(y)")
    assert becomes(opened, lambda: prompts(opened), [f"prompt of {i}" for i in (3, 2, 1, 0)])
    choose(opened, "split", "training")
    assert becomes(opened, lambda: prompts(opened), ["prompt of 3"])
    choose(opened, "split", "all")
    find(opened, "#browse input[name=search]")[0].send_keys("Y0 OF 2")  # in other letters
    assert becomes(opened, lambda: prompts(opened), ["prompt of 2"])
    assert texts(opened, "#count") == ["1 to 1 of 1 prompts"]


def test_any_triplet_is_reached_by_its_number_from_the_keyboard(at):
    from selenium.webdriver.common.keys import Keys

    opened = at(DESKTOP)
    assert becomes(opened, lambda: len(prompts(opened)), 4)
    place = find(opened, "#browse input[name=place]")[0]
    place.send_keys(Keys.CONTROL, "a")
    place.send_keys("4", Keys.ENTER)
    assert becomes(opened, lambda: prompts(opened), ["prompt of 3"])


def test_y_y0_and_every_sample_stand_side_by_side(at):
    """p1, by rule: log pi(y) stays -10, its y' has the reward 0 and 2 tokens, then 4."""
    opened = at(DESKTOP)
    becomes(opened, lambda: len(prompts(opened)), 4)
    sample = find(opened, "#browser .sample:nth-child(1) .response")
    assert [card.text.splitlines()[0] for card in sample] == [
        "y, annotated", "y0, initial policy", "y' of iteration 0, 1 token, cut",
        "y' of iteration 1, 2 tokens, cut",
    ]  # fmt: skip
    assert sample[3].text.splitlines()[1:] == [
        "y' at 1 of 0", "log-lik. reward", "y -11.00 -11.00", "y' -20.00 -20.00", "y0 -30.00 -30.00"
    ]  # fmt: skip


def test_tokens_are_shaded_and_their_numbers_are_read(at):
    """y' of iteration 1 to p0: "y' " has p = 1, "at " exp(-1), "1 " exp(-2), "of " exp(-3)."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    opened = at(DESKTOP)
    becomes(opened, lambda: len(prompts(opened)), 4)
    assert find(opened, "#shades")[0].is_displayed()
    (box,) = find(opened, "#browser .sample:nth-child(1) .response:nth-child(4) .tokens")
    (reading,) = find(opened, "#browser .sample:nth-child(1) .response:nth-child(4) output")
    spans = box.find_elements("css selector", "span")
    assert [span.get_attribute("class") for span in spans] == ["p0", "p1", "p1", "p2", "p2"]
    ActionChains(opened).move_to_element(spans[1]).perform()
    assert becomes(opened, lambda: reading.text, '"at ": -1.00 nats, p 37%')
    box.send_keys(Keys.ARROW_RIGHT)
    assert becomes(opened, lambda: reading.text, '"1 ": -2.00 nats, p 14%')
    box.send_keys(Keys.END)
    assert becomes(opened, lambda: reading.text, '"0": -4.00 nats, p 1.8%')
    box.send_keys(Keys.HOME)
    assert becomes(opened, lambda: reading.text, '"y\' ": 0.00 nats, p 100%')


def test_a_run_without_numbers_of_tokens_shows_texts(at):
    opened = at(DESKTOP, "runs/micro-tspin-micro-s1.html")
    becomes(opened, lambda: len(prompts(opened)), 4)
    assert not find(opened, ".tokens") and not find(opened, "#shades")[0].is_displayed()
    assert "y' at 1 of 0" in texts(opened, "#browser .text")


def test_samples_in_a_script_beside_the_page_are_read(browser, tmp_path, monkeypatch):
    write_run_folder = add_triplets(write_run(tmp_path / "runs", "tspin"))
    monkeypatch.setattr(site, "INSIDE", 10)
    runs = Runs.read(tmp_path / "runs")
    site.write_run(runs, next(iter(runs)), tmp_path)
    browser.get((tmp_path / "runs" / f"{write_run_folder.path.name}.html").as_uri())
    assert becomes(browser, lambda: prompts(browser), [f"prompt {i}" for i in range(4)])


def test_markup_anywhere_is_shown_not_run(browser, hostile):
    for path in sorted(hostile.rglob("*.html")):
        browser.get(path.as_uri())
        if path.parent.name == "runs":
            assert becomes(browser, lambda: MARKUP in texts(browser, "#browser .text"), True)
        assert browser.execute_script("return window.ran") is None and not find(browser, "#bold")
        assert not find(browser, "img[src=x]") and browser.get_log("browser") == []


def test_in_the_dark_ink_is_light(at):
    """The page's ink and that of its curves."""
    opened = at(DESKTOP)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    try:
        inks = opened.execute_script(
            "return [document.body, document.querySelector('svg text')]"
            ".map(e => getComputedStyle(e)[e.tagName === 'BODY' ? 'color' : 'fill'])"
        )
        assert inks == ["rgb(232, 232, 230)"] * 2
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_on_paper_the_controls_are_gone(at):
    opened = at(DESKTOP)
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not find(opened, "#browse")[0].is_displayed()
        assert find(opened, "#samples")[0].is_displayed()
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
