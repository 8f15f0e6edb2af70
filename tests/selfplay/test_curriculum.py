"""Runs in which some prompts alone get a new y': nothing is lost or twice, and what is equal is
shared."""

from collections import Counter

import pytest
from support.tiny import play

from analysis.reading.triplets import Triplets
from tspin.runs.metrics import StepLog
from tspin.tools.files import read_json
from tspin.tools.parquet import read_rows
from tspin.tracking import curriculum, summary

pytestmark = pytest.mark.runs

HALF = ("curriculum=gate", "curriculum.share=0.5", "selfplay.iterations=3")
SCALARS = "share_chosen", "tokens_sampled", "tokens_kept", "value_chosen", "value_kept"


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """SPIN, which reads a reference, by gate over three iterations -> its folder, its table"""
    return play(tmp_path_factory.mktemp("gated"), "spin", *HALF)


def by_id(folder, t):
    return {row["id"]: row for row in read_rows(folder.iteration(t).choices)}


def test_every_prompt_has_one_y_in_every_iteration_and_the_chosen_a_new_one(gated):
    folder, _ = gated
    prompts = {row["id"]: row["split"] for row in read_rows(folder.prompts)}
    train = [name for name, split in prompts.items() if split == "train"]
    latest = {row["id"]: row for row in folder.iteration(0).synthetic.rows()}
    assert not folder.iteration(0).choices.exists()
    for t in (1, 2):
        out, choices = folder.iteration(t), by_id(folder, t)
        samples = out.synthetic.rows()
        assert Counter(row["id"] for row in samples) == Counter(prompts.keys())
        assert list(choices) == train
        assert sum(row["chosen"] for row in choices.values()) == 12
        kept = {row["id"]: row for row in read_rows(out.synthetic.kept)}
        assert kept.keys() == {name for name in train if not choices[name]["chosen"]}
        assert all(row == latest[name] for name, row in kept.items())
        latest = {row["id"]: row for row in samples}
        sources = {row["id"]: row["source"] for row in read_rows(out.scores)}
        assert sources == {name: choices.get(name, {"source": t})["source"] for name in prompts}
        assert out.synthetic.facts()["num_prompts"] == 12 + 16  # held-out prompts get one anyway


def test_the_chosen_alone_get_a_step_and_all_are_scored(gated):
    folder, rows = gated
    for t, examples in ((0, [8, 8, 8]), (1, [8, 4]), (2, [8, 4])):
        out = folder.iteration(t)
        assert [step["num_examples"] for step in StepLog.read(out.metrics)] == examples
        scored = read_rows(out.scores)
        assert len(scored) == 3 * 40
        assert all(row["reward"] is not None for row in scored if row["role"] != "proto")
    # the margin against the policy at the start is 0 before the first step, also here
    assert StepLog.read(folder.iteration(2).metrics)[0]["advantages/current"] == 0.0
    before = {(r["id"], r["role"]): r["logp"] for r in read_rows(folder.iteration(1).scores)}
    choices = by_id(folder, 2)
    reference = read_rows(folder.iteration(2).ref_scores)
    assert len(reference) == 2 * 40
    for row in reference:  # of what was kept, as the iteration before has scored it
        if row["split"] == "train" and not choices[row["id"]]["chosen"]:
            assert row["logp"] == before[row["id"], row["role"]]


def test_the_explorer_shows_what_stayed_with_its_scores(gated):
    folder, _ = gated
    choices = by_id(folder, 1)
    kept = next(name for name, row in choices.items() if not row["chosen"])
    (row,) = Triplets(folder).rows([kept], with_tokens=False)
    first, second, _ = row["iterations"]
    assert first["response"] == second["response"]
    assert first["scores"].keys() == second["scores"].keys() == {"annotated", "synthetic", "proto"}


def test_what_was_saved_is_told(gated):
    folder, rows = gated
    out = folder.iteration(1)
    facts = curriculum.facts(out)
    assert tuple(facts) == SCALARS and facts["share_chosen"] == 0.5
    lengths = {row["id"]: row["num_tokens"] for row in out.synthetic.rows()}
    choices = by_id(folder, 1)
    kept = sum(lengths[name] for name, row in choices.items() if not row["chosen"])
    assert facts["tokens_kept"] == kept
    assert facts["tokens_sampled"] == sum(lengths[name] for name in choices) - kept
    assert facts["value_chosen"] > facts["value_kept"]
    assert curriculum.facts(folder.iteration(0)) == {}
    assert "curriculum_share_chosen" not in rows[1] and rows[2]["curriculum_share_chosen"] == 0.5
    text = summary.text(folder, rows)
    assert "chosen" in text and "50.0%" in text and "tokens of y' sampled where all" in text
    assert "choose" in read_json(out.done)["seconds"]


def test_iteration_0_is_that_of_any_curriculum_and_equal_choices_are_shared(
    finished_copy, tmp_path
):
    """finished_copy: T-SPIN on all prompts."""
    words = ("curriculum=random", "curriculum.share=0.5")
    first, _ = play(tmp_path, "tspin", *words, name="first")
    again, _ = play(tmp_path, "tspin", *words, name="again")
    other, _ = play(tmp_path, "tspin", "curriculum=random", "curriculum.share=0.25", name="other")
    origins = [
        [read_json(run.iteration(t).done).get("from") for t in (0, 1)]
        for run in (first, again, other)
    ]
    assert origins == [
        ["tspin/iter_0", None], ["tspin/iter_0", "first/iter_1"], ["tspin/iter_0", None],
    ]  # fmt: skip
    assert again.iteration(1).choices.samefile(first.iteration(1).choices)
    assert again.iteration(1).synthetic.kept.samefile(first.iteration(1).synthetic.kept)


def test_it_goes_on_from_a_run_on_all_prompts(finished, tmp_path):
    """What that run left is what is chosen from and kept."""
    start = finished.iteration(0).path
    folder, _ = play(tmp_path, "tspin", *HALF[:2], f"selfplay.start_from={start}")
    assert {row["source"] for row in by_id(folder, 1).values()} == {0, 1}
    assert len(folder.iteration(1).synthetic.ids()) == 40
