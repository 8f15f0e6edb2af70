"""The benchmark suite: its examples, its arithmetic, its verdicts, and a quick run of it all."""

import json
import math
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from support.tiny import triplet

from benchmarks import check, page, parts, rivals, shapes, suite, targets
from benchmarks.measure import NEEDS, Result, is_settled, measure
from benchmarks.shapes import Case, Llama, flops
from benchmarks.targets import Target, judge, ratios

CASE = Case("triplets x", "triplets", "tiny", "alpaca", ("ours", "plain", "sorted"))
TARGET = Target("x", ("triplets x",), ("plain", "sorted"), gate=2.0, stretch=3.0)


def made_up(ours, **theirs):
    return Result(CASE, seconds={"ours": ours, **theirs})


def status(result, target=TARGET):
    (verdict,) = judge([target], [result])
    return verdict.status


# --- examples ------------------------------------------------------------------------------------


def test_alpaca_lengths_are_28_and_126_on_average():
    """As in the instructions they were measured on, answers cut at 256."""
    found = replace(CASE, batch=4000).triplets(0)
    assert np.mean([len(t.prompt_ids) for t in found]) == pytest.approx(28, rel=0.1)
    lengths = [len(ids) for t in found for ids in t.responses.values()]
    assert np.mean(lengths) == pytest.approx(126, rel=0.05) and max(lengths) == 256


def test_examples_are_a_function_of_the_seed():
    assert CASE.triplets(3) == CASE.triplets(3) != CASE.triplets(4)


def test_text_for_other_libraries_has_the_same_ids():
    (example,) = replace(CASE, batch=1).triplets(0)
    tokenizer = CASE.model_shape.tokenizer()
    ids = [*example.prompt_ids, *example.responses["annotated"]]
    text = " ".join(tokenizer.convert_ids_to_tokens(ids))
    assert tokenizer(text)["input_ids"] == ids and ids[-1] == tokenizer.eos_token_id


def test_flops_by_hand():
    """One layer of 4 h^2 + 3 h k = 88 weights at h = 2, k = 12, head 5 x 2; prompt of 2, response
    of 3: 4 tokens are fed, 3 predicted, and 1 + 2 + 3 + 4 pairs seen."""
    shape = Llama(5, 2, 12, layers=1, heads=1, kv_heads=1, head_dim=2, tied=True)
    assert flops(shape, [triplet("a", [3, 3], [3, 3, 4])], ["annotated"]) == (
        6 * (88 * 4 + 10 * 3) + 12 * 2 * 10
    )


# --- verdicts ------------------------------------------------------------------------------------


def test_a_ratio_is_the_best_of_theirs_over_ours_in_each_round():
    result = made_up([1, 2, 4], plain=[2, 2, 8], sorted=[3, 1, 8])
    assert ratios(result, "ours", ["plain"]) == [2, 1, 2]
    assert ratios(result, "ours", ["plain", "sorted"]) == [2, 0.5, 2]
    assert ratios(result, "ours", ["trl_live"]) == []


def test_memory_is_compared_beyond_what_was_there_before():
    result = made_up([1], plain=[1])
    result.memory = {"ours": {"extra": 10, "peak": 100}, "plain": {"extra": 80, "peak": 170}}
    assert ratios(result, "ours", ["plain"], "memory") == [8]
    assert status(result, replace(TARGET, of="memory", gate=8)) == "ok"


def test_the_share_of_the_card_is_needed_over_sustained():
    """Products of 128 x 128 take 1 s: 2 * 128^3 operations a second, of which a step needs half."""
    matmul = Result(replace(CASE, name="matmul", kind="matmul"), seconds={"matmul": [1, 1]})
    pace = 2 * CASE.square**3
    result = made_up([2, 2])
    result.flops = [pace, pace]
    (verdict,) = judge([replace(TARGET, of="share", gate=0.5)], [matmul, result])
    assert (verdict.value, verdict.status) == (0.5, "ok")


def test_the_worst_case_counts():
    good, bad = made_up([1], plain=[4]), made_up([1], plain=[1.9])
    (verdict,) = judge([TARGET], [good, bad])
    assert (verdict.value, verdict.status) == (1.9, "MISSED")


def test_a_gate_that_is_just_met_is_met():
    assert status(made_up([1], plain=[2])) == "ok"


def test_what_was_skipped_says_why():
    result = made_up([1])
    result.skipped["plain"] = "trl is not installed"
    assert status(result) == "not measured (trl is not installed)"
    ours = made_up([1])
    ours.skipped["bfloat16"] = "slower here"
    assert status(ours, replace(TARGET, ours="bfloat16")) == "not measured (slower here)"
    assert [v.status for v in judge([TARGET], [])] == ["not measured (not run)"]


def test_rounds_end_where_they_say_little_more():
    """Twice as slow in every round, whatever a round takes; or three times all alike."""
    assert is_settled([[1.0, 2.0, 4.0], [2.0, 4.0, 8.0]])
    assert is_settled([[1.0, 1.01, 1.0]])
    assert not is_settled([[1.0, 2.0], [2.0, 4.0]])  # too few
    assert not is_settled([[1.0, 2.0, 4.0], [2.0, 4.0, 12.0]])
    assert is_settled([[10.0, 20.0, 40.0], [20.0, 40.0, 120.0]])  # long enough
    assert not is_settled([[100.0, 200.0], [20.0, 40.0]])
    assert not is_settled([[1.0, 2.0, 4.0]]) and not is_settled([])


def test_ways_run_one_after_the_other_compare_in_the_rounds_of_both():
    assert ratios(made_up([1, 2, 4], plain=[2, 2]), "ours", ["plain"]) == [2, 1]


def test_ratios_of_cpu_time():
    result = made_up([1], plain=[1])
    result.cpu = {"ours": [2], "plain": [5]}
    assert ratios(result, "ours", ["plain"], "cpu") == [2.5]


@pytest.mark.parametrize(
    ("others", "says"), [([0.0, 0.1], "0.10 at most."), ([0.0, 0.9], "the machine was busy"),
                         ([math.nan], "is not known")],
)  # fmt: skip
def test_the_page_says_what_else_the_machine_did(others, says):
    assert says in page.company(others)


@pytest.mark.process  # whose server imports what the ways need
def test_a_way_that_fails_says_so_and_stops_nobody():
    result = measure(replace(CASE, ways=("nothing",)), threads=1)
    assert result.skipped == {"nothing": "failed: KeyError: 'nothing'"} and not result.seconds


def test_every_target_is_of_ways_that_are_measured():
    for aims, cases in ((targets.CPU, shapes.CPU), (targets.GPU, shapes.GPU)):
        for target in aims:
            of_it = [c for c in cases if c.name.startswith(target.cases)]
            assert of_it and all(target.ours in c.ways for c in of_it), target.name
            assert set(target.theirs) <= {way for c in of_it for way in c.ways}, target.name
    assert len({c.name for c in shapes.CPU}) == len(shapes.CPU)


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "words", "code"), [(1.0, [], 0), (9.0, [], 1), (9.0, ["--quick"], 0)]
)
def test_a_missed_gate_is_the_exit_code(tmp_path, monkeypatch, ours, words, code):
    def measured(case, **_):
        memory = dict.fromkeys(case.ways, {"extra": 1.0, "peak": 2.0})
        seconds = {way: [ours if way == "ours" else 5.0] for way in case.ways}
        return Result(case, seconds=seconds, memory=memory)

    monkeypatch.setattr(suite, "measure", measured)
    out = ["--only", "pairs alpaca v2k", "--out", str(tmp_path / "bench")]
    assert suite.main([*out, *words]) == code


def test_a_suite_that_was_stopped_goes_on_behind_what_it_has(tmp_path, monkeypatch):
    """Of the same code and machine alone; of a finished one nothing is taken."""
    asked, code = [], ["a"]

    def measured(case, **_):
        asked.append(case.name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        memory = dict.fromkeys(case.ways, {"extra": 1.0, "peak": 2.0})
        return Result(case, seconds={way: [1.0] for way in case.ways}, memory=memory)

    monkeypatch.setattr(suite, "measure", measured)
    monkeypatch.setattr(suite, "source_digest", lambda: code[0])
    words = ["--only", "batch", "--out", str(tmp_path / "bench")]
    with pytest.raises(KeyboardInterrupt):
        suite.main(words)
    assert "Not finished" in (tmp_path / "bench.md").read_text()
    assert suite.main(words) == 0
    assert asked == ["batch 2", "batch 8", "batch 8", "batch 32"]
    assert "Not finished" not in (tmp_path / "bench.md").read_text()
    cases = json.loads((tmp_path / "bench.json").read_text())["cases"]
    assert [case["case"]["name"] for case in cases] == ["batch 2", "batch 8", "batch 32"]
    suite.main(words)
    assert len(asked) == 7  # it was finished: all of it anew
    tree = json.loads((tmp_path / "bench.json").read_text())
    (tmp_path / "bench.json").write_text(json.dumps(tree | {"finished": False}))
    code[0] = "b"
    suite.main(words)
    assert len(asked) == 10


def test_what_is_measured_by_default_has_every_target():
    """And no shape that a target does not ask for but those of growth over rows."""
    usual = [case for case in shapes.CPU if case.usual]
    for target in targets.CPU:
        assert any(case.name.startswith(target.cases) for case in usual), target.name
    wanted = tuple(name for target in targets.CPU for name in target.cases if name != "triplets ")
    assert all(case.name.startswith((*wanted, "rows")) for case in usual)


@pytest.mark.slow
def test_what_has_become_slower_is_the_exit_code(tmp_path, monkeypatch, caplog):
    """By more than 15%, three times; figures of a busy minute are measured again."""
    out, made = tmp_path / "check.json", iter([])
    monkeypatch.setattr(check, "WORKS", check.WORKS[:1])
    assert check.main(["--write", "--out", str(out)]) == 0
    (name,) = figures = json.loads(out.read_text())
    assert figures[name] > 0
    monkeypatch.setattr(check, "compared", lambda work: figures[name] * next(made))
    for ratios_, code in (([1.1], 0), ([1.3, 1.2, 1.3], 1), ([1.3, 1.0, 1.3], 0), ([0.5], 0)):
        made = iter(ratios_)
        assert check.main(["--out", str(out)]) == code and list(made) == []
    with pytest.raises(SystemExit, match="--write makes it"):
        check.main(["--out", str(tmp_path / "none.json")])


def test_a_word_in_no_case_is_refused():
    with pytest.raises(SystemExit, match="smoll"):
        suite.main(["--only", "smoll"])


def quick(tmp_path, *words):
    out = tmp_path / "bench"
    assert suite.main(["--quick", "--threads", "1", "--out", str(out), *words]) == 0
    assert out.with_suffix(".png").stat().st_size > 10_000
    return json.loads(out.with_suffix(".json").read_text()), out.with_suffix(".md").read_text()


def test_a_step_is_taken_apart_by_what_its_operations_are():
    class Head(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return (x @ x).exp()

    Head.__name__ = "_LossSum"
    x = torch.randn(64, 64, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(64, 64))
    weight.grad = torch.randn(64, 64)
    optimizer = torch.optim.SGD([weight], lr=1e-3)
    layers, head, attention, moved, rest, losses, step, _ = parts.PARTS

    def found(work):
        return {name for name, seconds in parts.of(work).items() if seconds > 0}

    everything = found(lambda: (Head.apply(x @ x), optimizer.step()))
    assert everything >= {layers, head, losses, step} and attention not in everything
    heads = x.detach().view(1, 1, 64, 64)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert attention in found(lambda: attend(heads, heads, heads))
    assert found(lambda: x.detach().clone().tanh()) >= {moved, rest}
    a, batch = x.detach(), x.detach()[None]
    assert layers in found(lambda: a.addmm_(a, a))  # in place, as the head's gradient is summed
    assert layers in found(lambda: batch.baddbmm_(batch, batch))


def ways(found):
    """Each kind of work and each way of doing it that a suite had a case of."""
    cases = [case["case"] for case in found["cases"]]
    return {(case["kind"], way) for case in cases for way in case["ways"]}


@pytest.mark.slow
def test_a_quick_run_measures_everything_and_says_that_it_is_no_result(tmp_path):
    found, page = quick(tmp_path)
    assert ways(found) == {(case.kind, way) for case in shapes.CPU for way in case.ways}
    for case in found["cases"]:
        assert set(case["seconds"]) | set(case["skipped"]) == set(case["case"]["ways"])
        lacking = set() if find_spec("trl") else set(NEEDS)
        lacking |= {"bfloat16", *rivals.PYTHON}  # by the CPU, and without their environments
        assert set(case["skipped"]) <= lacking
        assert all(min(seconds) > 0 for seconds in case["seconds"].values())
    assert "## Where the time of a step goes" in page and parts.FLOOR in page
    assert "None of it is a result" in page and "has not been measured" in page
    assert all(f"| {case['case']['name']} |" in page for case in found["cases"])
    assert page.count("gate") == len(targets.CPU) and "rows 10 to 100" in page


@pytest.mark.slow
def test_the_suite_for_a_card_runs_on_tiny_shapes(tmp_path):
    found, page = quick(tmp_path, "--suite", "gpu")
    assert ways(found) == {(case.kind, way) for case in shapes.GPU for way in case.ways}
    assert "of the card" in page and "share of the matmul peak" in page
