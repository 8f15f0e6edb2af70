"""Runs on data that shift: who is sampled, trained on and judged, resumed, shared, on own rows."""

import json

import pytest
from support.tiny import interrupted, play

from tspin.runs import sharing
from tspin.tools.files import read_json
from tspin.tools.parquet import each_row, read_rows

pytestmark = pytest.mark.runs

DRIFT = ["data=micro_drift", "data.shift.parts=3", "selfplay.iterations=3"]
WAYS = ["data.shift.window=1", "data.shift.replay=0.34", "data.shift.gamma=0.5",
        "data.shift.renew=[2]"]  # fmt: skip


@pytest.fixture(scope="module")
def drifting(tmp_path_factory):
    """24 rows in 3 parts, 16 held out: all ways at once."""
    return play(tmp_path_factory.mktemp("drift"), "tspin", *DRIFT, *WAYS, name="ways")[0]


def parts_of(folder, t, split="train"):
    """Of the rows that iteration t was played with, as its scores name them."""
    parts = {row["id"]: row["part"] for row in each_row(folder.prompts, "id", "part")}
    ids = {r["id"] for r in read_rows(folder.iteration(t).scores) if r["split"] == split}
    return sorted(parts[i] for i in ids)


def test_an_iteration_trains_on_its_rows(drifting):
    """8 of its own part, and from iteration 1 on 4 of 12 from before."""
    assert parts_of(drifting, 0) == [0] * 8
    assert parts_of(drifting, 1) == [0] * 4 + [1] * 8
    assert parts_of(drifting, 2)[4:] == [2] * 8 and max(parts_of(drifting, 2)[:4]) < 2
    steps = [len(drifting.iteration(t).metrics.read_text().splitlines()) for t in range(3)]
    assert steps == [1, 2, 2]  # batches of 8
    assert all(parts_of(drifting, t, "heldout") == parts_of(drifting, 0, "heldout") for t in (1, 2))


def test_only_rows_that_are_there_are_sampled_but_for_y0(drifting):
    numbers = [drifting.iteration(t).synthetic.facts()["num_prompts"] for t in range(3)]
    assert numbers == [40, 12 + 16, 40]
    assert drifting.proto.facts()["num_prompts"] == 40


def test_y0_made_anew_is_y_of_that_iteration(drifting):
    def logps(t):
        rows = read_rows(drifting.iteration(t).scores)
        return {role: {r["id"]: r["logp"] for r in rows if r["role"] == role}
                for role in ("synthetic", "proto")}  # fmt: skip

    assert logps(2)["proto"] == logps(2)["synthetic"]
    assert logps(1)["proto"] != logps(1)["synthetic"]
    lines = drifting.iteration(2).samples.read_text().splitlines()
    assert all(row["proto"] == row["synthetic"] for row in map(json.loads, lines))


def test_a_policy_is_judged_on_now_and_on_before(drifting):
    """16 held-out rows take turns in 3 parts: 6, 5, 5."""
    of = [read_json(drifting.iteration(t).evaluation)["heldout"] for t in range(3)]
    assert [it["exact_match,greedy,current"]["n"] for it in of] == [6, 5, 5]
    assert [it.get("exact_match,greedy,past", {}).get("n") for it in of] == [None, 6, 11]
    for it in of:
        parts = [it[f"logp_per_token,part_{k}"]["value"] for k in range(3)]
        assert min(parts) <= it["logp_per_token"]["value"] <= max(parts)
    assert of[1]["logp_per_token,current"] == of[1]["logp_per_token,part_1"]
    base = read_json(drifting.base.evaluation)["heldout"]
    assert base["exact_match,greedy,current"] == base["exact_match,greedy,part_0"]


def test_killed_and_resumed_is_uninterrupted(drifting, tmp_path):
    words = (*DRIFT, *WAYS, "compute.save_seconds=0")
    with interrupted(after=4):  # in iteration 2, whose y0 are new
        play(tmp_path, "tspin", *words, name="ways")
    resumed, _ = play(tmp_path, "tspin", *words, name="ways")
    for t in range(3):
        one, other = (read_json(f.iteration(t).done)["weights"] for f in (drifting, resumed))
        assert one == other


def test_what_is_shared_is_what_would_have_been_trained(drifting, monkeypatch):
    """Iteration 0 is the same without the ways, and y0 is for all of them."""
    found = []
    find = sharing.find
    monkeypatch.setattr(sharing, "find", lambda *a: found.append(find(*a)) or found[-1])
    plain, _ = play(drifting.path.parent, "tspin", *DRIFT, name="plain")
    assert [out and out.path.parent.name for out in found] == ["ways", None, None]
    assert parts_of(plain, 2) == [0] * 8 + [1] * 8 + [2] * 8
    assert plain.proto.manifest.samefile(drifting.proto.manifest)


def test_sft_on_own_rows_with_a_date(tmp_path):
    """The newest rows by their dates; no answer can be checked, so log pi(y) says it."""
    lines = ["prompt,response,day"]
    lines += [f"Say {i}.,{i % 10},2026-0{1 + i % 3}-10" for i in range(30)]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    words = ["data=file", f"data.path={tmp_path}/rows.csv", "data.shift.column=day",
             "data.size=null", "data.shift.window=1", "data.heldout=6"]  # fmt: skip
    folder, _ = play(tmp_path, "sft", *words)
    assert {*parts_of(folder, 1)} == {1}
    assert "logp_per_token,past" in read_json(folder.iteration(1).evaluation)["heldout"]
    with pytest.raises(ValueError, match="iterations=4 are more than the 3 times"):
        play(tmp_path, "sft", *words, "selfplay.iterations=4")
    play(tmp_path, "sft", *words, "selfplay.iterations=3")  # nothing of it is left in the folder
