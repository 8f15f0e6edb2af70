"""`python -m tspin likelihood`: log pi(y) of pairs in a file, under the policies of runs."""

import csv
import json
import logging
import re
from functools import partial
from math import exp

import pytest
import torch
from support.tiny import play
from transformers import AutoModelForCausalLM

from tspin.__main__ import main
from tspin.micro import folder as micro
from tspin.selfplay import likelihood
from tspin.tools.files import write_json
from tspin.tools.parquet import read_rows

pytestmark = pytest.mark.runs

ROWS = [{"prompt": f"Say {i}.", "response": f"{i}, as you say."} for i in range(8)]
OTHER = [{"prompt": f"{i} + {i}?", "response": str(2 * i), "note": "x"} for i in range(6)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of SFT that begin alike, `two` with two iterations; they trained on pairs.jsonl."""
    root = tmp_path_factory.mktemp("likelihood")
    pairs = write(root / "pairs.jsonl", ROWS)
    words = ["data=file", f"data.path={pairs}", "data.size=null", "data.heldout=0"]
    for name, iterations in (("one", 1), ("two", 2)):
        play(root / "runs", "sft", *words, f"selfplay.iterations={iterations}", name=name)
    return root / "runs"


@pytest.fixture
def measure(tmp_path, capsys, caplog):
    """(rows of out=, what is printed, what is logged) of a call with `words`"""

    def measure(run, data, *words):
        caplog.clear()
        caplog.set_level(logging.INFO, "tspin")
        out = tmp_path / "out.csv"
        code = main(["likelihood", f"run={run}", f"data={data}", f"out={out}", *words])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        with out.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        names = ("run", "key", "iteration")
        numbers = [{k: v if k in names else float(v) for k, v in row.items()} for row in rows]
        return numbers, printed.out, caplog.messages

    return measure


@pytest.fixture
def refused(capsys):
    def refused(*words):
        assert main(["likelihood", *words]) == 1
        line = capsys.readouterr().err
        assert line.startswith("error: ") and line.count("\n") == 1
        return line.removeprefix("error: ")

    return refused


def by_transformers(weights, rows):
    """log pi(y) of each row of prompts.parquet, in float32, one by one."""
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32).eval()
    logps = []
    for row in rows:
        prompt, response = list(row["prompt_ids"]), list(row["annotated_ids"])
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])
        logps.append(float(chosen.sum()))
    return logps


def test_numbers_are_those_of_transformers_on_the_runs_own_ids(runs, measure):
    """The pairs of the file are those that were trained on: their ids are in prompts.parquet."""
    measured, _, _ = measure(runs / "two", runs.parent / "pairs.jsonl", "iteration=all")
    assert [row["iteration"] for row in measured] == ["base", "0", "1"]
    prompts = read_rows(runs / "two/prompts.parquet")
    tokens = sum(len(row["annotated_ids"]) for row in prompts)
    folders = [micro("warm"), *(runs / f"two/iter_{t}/checkpoint" for t in (0, 1))]
    totals = [sum(by_transformers(weights, prompts)) for weights in folders]
    for row, total in zip(measured, totals, strict=True):
        assert (row["run"], row["n"], row["tokens"]) == ("two", len(ROWS), tokens)
        assert row["logp"] == pytest.approx(total / len(ROWS), rel=1e-5)
        assert row["logp_per_token"] == pytest.approx(total / tokens, rel=1e-5)
        assert row["perplexity"] == pytest.approx(exp(-total / tokens), rel=1e-4)
        assert row["difference"] == pytest.approx((total - totals[0]) / tokens, abs=1e-5)
        assert row["logp_per_token_low"] < row["logp_per_token"] < row["logp_per_token_high"]


def test_what_is_trained_on_becomes_likelier_and_base_is_as_likely_as_base(runs, measure):
    (base, last), text, _ = measure(runs / "two", runs.parent / "pairs.jsonl")
    assert [base[f"difference{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]
    assert last["iteration"] == "1" and 0 < last["difference_low"] < last["difference"]
    sentence = text.splitlines()[-1]
    numbers = re.findall(r"[+-]?\d+\.\d{3}", sentence)
    keys = ("difference", "difference_low", "difference_high")
    shown = [f"{row['logp_per_token']:.3f}" for row in (base, last)]
    shown += [f"{last[key]:{sign}.3f}" for key, sign in zip(keys, ("+", "", ""), strict=True)]
    assert numbers == shown
    assert sentence.startswith("log pi(y) of pairs.jsonl: ")
    assert sentence.endswith("] (base to iteration 1)")
    assert max(map(len, text.splitlines()[:-1])) <= 100


def test_runs_that_begin_alike_have_one_base_and_nothing_is_left_in_them(
    runs, measure, tmp_path, monkeypatch
):
    """`note` is no column that is read; two rows cannot be used."""
    bases, initial = [], likelihood._initial

    def counted(cfg, begins):
        bases.append(cfg.name)
        return initial(cfg, begins)

    monkeypatch.setattr(likelihood, "_initial", counted)
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    data = write(tmp_path / "other.jsonl", [{"prompt": "p"}, *OTHER, {"response": "r"}])
    rows, text, messages = measure(runs, data)
    assert [(row["run"], row["iteration"]) for row in rows] == [
        ("one", "base"), ("one", "0"), ("two", "base"), ("two", "1"),
    ]  # fmt: skip
    of_base = [{**row, "run": "", "key": ""} for row in (rows[0], rows[2])]
    assert bases == ["one"] and of_base[0] == of_base[1]
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before
    assert {row["n"] for row in rows} == {6} and text.count("log pi(y) of other.jsonl") == 2
    assert any("2 rows left out" in line and "line 1" in line for line in messages)
    assert "columns not used: note" in messages


def test_out_is_written_after_each_run_and_gone_on_with(
    runs, measure, refused, tmp_path, monkeypatch
):
    """The second run's weights are lacking at first; what the first one has is not scored again."""
    data, out, scored = write(tmp_path / "other.jsonl", OTHER), tmp_path / "out.csv", []
    score = likelihood._rows

    def counted(policies, folder, triplets, cfg, name, *, fails=("two",)):
        scored.append((cfg.name, name))
        if cfg.name in fails:
            raise ValueError("no such file")
        return score(policies, folder, triplets, cfg, name)

    monkeypatch.setattr(likelihood, "_rows", counted)
    assert refused(f"run={runs}", f"data={data}", f"out={out}") == "no such file\n"
    assert [line.split(",")[0] for line in out.read_text().splitlines()] == ["run", "one", "one"]
    monkeypatch.setattr(likelihood, "_rows", partial(counted, fails=()))
    scored.clear()
    first, text, _ = measure(runs, data)
    assert scored == [("two", "base"), ("two", "iteration 1")]
    assert text.count("log pi(y) of other.jsonl") == 2
    scored.clear()
    assert measure(runs, data)[:2] == (first, text) and scored == []
    fewer, _, _ = measure(runs, data, "limit=3")  # other pairs
    assert len(scored) == 3 and {row["n"] for row in fewer} == {3}
    out.write_text("a,b\n1,2\n")  # a file of another kind
    assert measure(runs, data)[0] == first


def test_the_first_pairs_alone_and_one_has_no_interval(runs, measure):
    pairs = runs.parent / "pairs.jsonl"
    three, one = (measure(runs / "one", pairs, f"limit={n}") for n in (3, 1))
    assert [row["n"] for row in three[0]] == [3, 3]
    assert re.search(r"nats a token, \+\d\.\d{3} \(base to iteration 0\)$", one[1].strip())


def test_a_response_that_is_too_long_is_cut_and_one_without_a_token_left_out(
    runs, measure, tmp_path, monkeypatch
):
    """model.max_length is 64, prompt and response together."""
    rows = [{"prompt": "p", "response": "long " * 40}, {"prompt": "q", "response": "no token"}]
    of_pair = likelihood.encoded

    def encoded(pair, cfg, renderer):
        ids = of_pair(pair, cfg, renderer)
        return ids._replace(response=[]) if pair.prompt == "q" else ids

    monkeypatch.setattr(likelihood, "encoded", encoded)
    measured, _, messages = measure(runs / "one", write(tmp_path / "long.jsonl", rows))
    assert measured[0]["n"] == 1 and 20 < measured[0]["tokens"] < 64
    assert "one: 1 of 2 pairs left out: the row with 'q': its response holds no token" in messages


def test_iterations_without_weights_are_named_and_the_others_measured(runs, measure, refused):
    """Beside another run they are no error, alone they are."""
    pairs, removed = runs.parent / "pairs.jsonl", runs / "two/iter_0/weights_removed.json"
    write_json(removed, {"keep": "last"})
    try:
        rows, _, messages = measure(runs / "two", pairs, "iteration=all")
        assert [row["iteration"] for row in rows] == ["base", "1"]
        assert "two: no weights of iteration 0 (selfplay.keep=all)" in messages
        rows, _, messages = measure(runs, pairs, "iteration=0")
        assert {row["run"] for row in rows} == {"one"}
        assert any(
            line.startswith("left out: ") and "selfplay.keep=last" in line for line in messages
        )
        line = refused(f"run={runs / 'two'}", f"data={pairs}", "iteration=0")
        assert "weights are there of iteration 1" in line
    finally:
        removed.unlink()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["data=PAIRS"], "run= is missing"),
        (["run=RUN"], "data= is missing"),
        (["run=RUN", "data=PAIRS", "iteraton=0"], "did you mean iteration=?"),
        (["run=RUN", "data=PAIRS", "iteration=7"], "use best, last or one of 0"),
        (["run=RUN", "data=PAIRS", "limit=0"], "limit=0 is no whole number from 1"),
        (["run=RUN", "data=PAIRS", "out=RUN"], "is a folder; write out=FILE.csv"),
        (["run=RUN", "data=nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["run=nowhere", "data=PAIRS"], "nowhere is no run that can be read: it is not there"),
    ],
)
def test_mistakes_are_one_line(runs, refused, words, why):
    names = {"RUN": str(runs / "one"), "PAIRS": str(runs.parent / "pairs.jsonl")}
    for name, path in names.items():
        words = [word.replace(name, path) for word in words]
    assert why in refused(*words)


def test_base_is_what_the_run_began_with(runs, refused, monkeypatch):
    monkeypatch.setattr(likelihood.weights, "weight_digest", lambda folder: "0" * 64)
    line = refused(f"run={runs / 'one'}", f"data={runs.parent / 'pairs.jsonl'}")
    assert "holds other weights than one began with" in line
