"""analysis.watch: served to this machine alone, from folders that change meanwhile."""

import http.client
import json
import re
from urllib.parse import quote, urlsplit

import pytest
from support.pages import served
from support.report_runs import add_triplets, write_run

from analysis.report.server import HOST, Site
from tspin.tools.files import write_json

pytestmark = pytest.mark.slow  # makes pages

NAME = "micro-tspin-micro-s0"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("watched")
    for loss in ("spin", "tspin"):
        add_triplets(write_run(root, loss))
    return root


@pytest.fixture(scope="module")
def server(runs):
    with served(Site(runs)) as server:
        yield server


def get(server, path, *, token=None, host=None):
    """(status, text) of a path behind the token."""
    address = urlsplit(server.address)
    connection = http.client.HTTPConnection(address.hostname, address.port)
    headers = {} if host is None else {"Host": host}
    connection.request("GET", f"/{token or server.token}/{path}", headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_only_this_machine_is_served(server):
    assert server.server_address[0] == HOST == "127.0.0.1"


def test_without_the_token_there_is_nothing(server):
    assert get(server, "", token="guess") == (404, "nothing here")
    assert len(server.token) > 20


def test_a_page_of_somebody_elses_name_reads_nothing(server):
    """DNS that points another name here would make our pages theirs."""
    assert get(server, "", host="example.org")[0] == 403


@pytest.mark.parametrize("path", ["runs/nobody.html", "samples/nobody", "../config.yaml", "x"])
def test_what_is_not_there_is_404(server, path):
    assert get(server, path)[0] == 404


def test_the_first_page_says_what_happened_and_leads_on(server):
    status, html = get(server, "")
    assert status == 200 and "40.0% to 52.0%" in html and "data-live" in html
    assert f'href="runs/{NAME}.html"' in html


def test_samples_are_asked_for_a_few_at_a_time(server):
    status, text = get(server, f"samples/{NAME}?order=gain&most=1&place=2")
    answer = json.loads(text)
    assert (status, answer["total"]) == (200, 4)
    assert [row["id"] for row in answer["rows"]] == ["p2"]
    searched = json.loads(get(server, f"samples/{NAME}?search={quote('y0 3')}")[1])
    assert [row["id"] for row in searched["rows"]] == ["p3"]


def test_a_page_is_as_long_for_many_prompts_as_for_few(tmp_path):
    """It holds none of them, and asks for five at a time."""
    lengths, answers = [], []
    for number in (4, 400):
        made = add_triplets(write_run(tmp_path / str(number), "tspin"), number, tokens=True)
        site = Site(made.path)
        html = site.answer(f"runs/{made.path.name}.html", {})[1]
        same = re.sub('<svg.*?</svg>|data-live="[^"]*"', "", html, flags=re.S)
        lengths.append(len(same))
        answers.append(json.loads(site.answer(f"samples/{made.path.name}", {})[1]))
    assert lengths[1] - lengths[0] == len("400") - len("4")
    assert [len(answer["rows"]) for answer in answers] == [4, 5] and answers[1]["total"] == 400


def test_a_page_that_cannot_be_made_says_so(tmp_path, caplog):
    made = write_run(tmp_path, "tspin")
    site = Site(tmp_path)
    site.answer = lambda path, query: 1 / 0
    with served(site) as server:
        status, text = get(server, f"runs/{made.path.name}.html")
    assert (status, text) == (
        500,
        "this page could not be made: ZeroDivisionError: division by zero",
    )
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("query", ["order=age", "place=x", "most=-1"])
def test_a_bad_question_is_answered_in_words(server, query):
    status, text = get(server, f"samples/{NAME}?{query}")
    assert status == 400 and query.partition("=")[0] in text


def test_two_runs_are_compared(server):
    status, html = get(server, f"compare.html?a={NAME}&b=micro-spin-micro-s0:0")
    assert status == 200 and "micro-spin-micro-s0, after iteration 0" in html
    assert get(server, f"compare.html?a={NAME}&b=nobody")[0] == 400


def test_the_papers_page_is_served_too(server):
    status, html = get(server, "paper.html")
    assert status == 200 and "Table 1" in html and ".pdf" not in html


def test_a_page_follows_its_run(tmp_path):
    """Iteration 1 ends while somebody watches: the state changes, and the page says so."""
    made = add_triplets(write_run(tmp_path, "tspin"))
    done = json.loads(made.iteration(1).done.read_text())
    made.iteration(1).done.unlink()
    site = Site(tmp_path)
    before, page = site.state(), site.answer(f"runs/{made.path.name}.html", {})[1]
    assert "1 of 2 iterations done" in page
    assert site.state() == before and site.answer("state", {})[1] == before
    write_json(made.iteration(1).done, {key: done[key] for key in ("seconds", "weights")})
    assert site.state() != before
    assert "2 of 2 iterations done" in site.answer(f"runs/{made.path.name}.html", {})[1]


def test_a_single_run_may_be_watched(tmp_path):
    made = write_run(tmp_path, "tspin")
    site = Site(made.path)
    assert "1 run" in site.answer("", {})[1]
    assert site.answer(f"runs/{made.path.name}.html", {}) is not None
