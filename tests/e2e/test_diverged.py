"""A training that diverges stops, and touches no other."""

from __future__ import annotations

from safetensors import safe_open
from support.contents import contents

from tspin.tools.parquet import read_rows


def test_a_diverged_training_stops_with_the_last_good_step(forker, runs):
    """The step with lr 1e30 is the first one; the loss after it is not finite."""
    for _ in range(2):  # and stops there again
        child = forker.run(runs, "optim.lr=1e30")
        error = child.text.splitlines()[-1]
        assert child.code == 1 and error.startswith("error: diverged at iteration 0: train, step 1")
        assert "nan" in error and "lower optim.lr (1e+30 here) or coef.alpha" in error
        trained = [r for r in read_rows(runs / "run/prompts.parquet") if r["split"] == "train"]
        assert sum(row["id"] in error for row in trained) == 3  # of the batch of 8
        assert error.endswith(", 5 more")
        out = runs / "run/iter_0"
        assert sorted(p.name for p in out.iterdir()) == [
            "metrics.jsonl",
            "synthetic",
            "train_state",
        ]
        assert [p.name for p in (out / "train_state").iterdir()] == ["state.safetensors"]
        with safe_open(out / "train_state/state.safetensors", framework="np") as state:
            assert state.metadata()["next_step"] == "1"
        assert len((out / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_point_that_fails_does_not_touch_the_others(forker, runs):
    points = ["name=null", "selfplay.iterations=1"]
    alone = forker.run(runs / "alone", *points, "optim.lr=1e-5")
    assert alone.code == 0, alone.text
    (good,) = (p for p in (runs / "alone").iterdir() if (p / "config.yaml").exists())
    for done in (0, 1):  # the second time one is there and not run again
        child = forker.run(runs / "many", "-m", *points, "optim.lr=1e30,1e-5")
        assert f"2 points, {done} done, {2 - done} to run" in child.text
        assert child.code == 1 and "diverged at iteration 0" in child.text
        assert contents(runs / "many" / good.name) == contents(good)
        assert len(list((runs / "many").glob("*/iter_0/done.json"))) == 1
