"""Iterations that are equal by definition are made once, and linked: nothing else is."""

import logging
import shutil
from pathlib import Path

import pytest
from support.tiny import play

from tspin.runs.artifacts import Responses, RunDir
from tspin.tools.files import read_json

pytestmark = pytest.mark.runs

ROOT = Path(__file__).resolve().parents[2]


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def leader(finished, tmp_path_factory):
    """A finished run of T-SPIN, whose runs_dir others join."""
    runs = tmp_path_factory.mktemp("runs")
    shutil.copytree(finished.path.parent, runs, dirs_exist_ok=True)
    return RunDir(runs / finished.path.name)


def trained(monkeypatch):
    """The iterations that are trained from now on."""
    from tspin.selfplay import session

    seen = []
    train = session.train

    def training(policy, triplets, out, recipe, **options):
        seen.append(recipe.t)
        train(policy, triplets, out, recipe, **options)

    monkeypatch.setattr(session, "train", training)
    return seen


def test_without_h_a_takes_iteration_0_from_tspin(leader, monkeypatch, caplog):
    seen = trained(monkeypatch)
    with caplog.at_level(logging.INFO, logger="tspin"):
        folder, rows = play(leader.path.parent, "wo_ha")
    assert seen == [1]
    assert "iteration 0: equal to tspin/iter_0 by definition, linked" in caplog.text
    mine, theirs = folder.iteration(0), leader.iteration(0)
    assert names(mine.path) == names(theirs.path)
    assert mine.metrics.samefile(theirs.metrics)
    assert read_json(mine.done)["from"] == "tspin/iter_0"
    assert {**read_json(mine.done), "from": 0} == {**read_json(theirs.done), "from": 0}
    assert [row["iteration"] for row in rows] == ["base", 0, 1]


def test_what_is_linked_is_what_would_have_been_trained(leader, tmp_path):
    """The next iteration, trained from it, is the same as in a run that shares nothing."""
    linked, _ = play(leader.path.parent, "tspin", "coef.beta=0.5", name="linked")
    alone, _ = play(tmp_path, "tspin", "coef.beta=0.5", "selfplay.share=false", name="alone")
    assert read_json(linked.iteration(0).done)["from"] == "tspin/iter_0"
    assert "from" not in read_json(linked.iteration(1).done)
    for t in (0, 1):
        one, other = (read_json(f.iteration(t).done)["weights"] for f in (linked, alone))
        assert one == other


@pytest.mark.parametrize(
    "overrides",
    [["seed=1"], ["coef.alpha=0.5"], ["optim.lr=1e-5"], ["data.size=20"], ["optim.epochs=2"],
     ["selfplay.share=false"], ["model=micro_base", "optim.lr=3e-5"]],
    ids=str,
)  # fmt: skip
def test_what_differs_is_trained(leader, monkeypatch, overrides):
    seen = trained(monkeypatch)
    name = "-".join(overrides).replace("=", "_")
    folder, _ = play(leader.path.parent, "tspin", *overrides, "selfplay.iterations=1", name=name)
    assert seen == [0] and "from" not in read_json(folder.iteration(0).done)


def test_other_pairs_in_a_file_of_the_same_name_are_other_data(tmp_path, monkeypatch):
    seen = trained(monkeypatch)
    file = tmp_path / "pairs.jsonl"
    options = ["data=file", f"data.path={file}", "data.size=null", "data.heldout=2"]
    for word in ("one", "two"):
        lines = (f'{{"prompt": "Say {i}.", "response": "{word} {i}"}}\n' for i in range(12))
        file.write_text("".join(lines))
        play(tmp_path, "tspin", *options, "selfplay.iterations=1", "model.path=micro:warm",
             name=word)  # fmt: skip
    assert seen == [0, 0]


def test_a_longer_run_begins_with_the_iterations_of_a_shorter(leader, monkeypatch):
    seen = trained(monkeypatch)
    longer, _ = play(leader.path.parent, "tspin", "selfplay.iterations=3", name="longer")
    assert seen == [2]
    assert [read_json(longer.iteration(t).done).get("from") for t in (0, 1, 2)] == [
        "tspin/iter_0", "tspin/iter_1", None
    ]  # fmt: skip


def test_a_link_of_a_link_names_the_run_that_trained(leader):
    play(leader.path.parent, "wo_ha", "selfplay.iterations=1", name="a-link")
    again, _ = play(leader.path.parent, "wo_ha", "selfplay.iterations=1", name="b-link")
    assert read_json(again.iteration(0).done)["from"] == "tspin/iter_0"


def test_a_run_stands_alone_when_the_one_it_links_is_gone(finished_copy, tmp_path, monkeypatch):
    first = finished_copy
    second, _ = play(tmp_path, "wo_ha")
    shutil.rmtree(first.path)
    assert (second.iteration(0).checkpoint / "model.safetensors").stat().st_size > 1e6
    assert len(Responses(second.iteration(0).synthetic.path).rows()) == 40
    seen = trained(monkeypatch)
    play(tmp_path, "tspin", name="third")  # finds it in the one that is left
    assert seen == [1]


def test_two_processes_that_want_the_same_iteration_train_it_once(forker, tmp_path):
    """The second waits for the first."""
    small = ["data.size=24", "data.heldout=8", "selfplay.iterations=1", "track=none"]
    small += ["track.report=false"]
    command = ["main.py", *small, f"runs_dir={tmp_path}"]
    both = [forker.start_python(*command, f"loss={loss}", cwd=ROOT) for loss in ("tspin", "wo_ha")]
    for process in both:
        process.ended()
    done = [read_json(path) for path in sorted(tmp_path.glob("*/iter_0/done.json"))]
    assert len(done) == 2 and sum("from" in facts for facts in done) == 1
