"""Bytes before they are written: by hand, against what a run writes, and refused in time."""

import shutil
from collections import namedtuple

import pytest
from support.tiny import compose, play

from tspin.micro import folder as micro_folder
from tspin.planning import disk
from tspin.runs.artifacts import Iteration, RunDir

pytestmark = pytest.mark.runs

Usage = namedtuple("Usage", "total used free")
BILLION = 10**9


def test_bytes_by_hand():
    """A weight of a 7B is 4 bytes, its state 4 for the weight and 4 for RMSprop's one number."""
    sizes = disk.sizes(compose(), parameters=7 * BILLION, train=1, heldout=1)
    assert (sizes.checkpoint, sizes.train_state) == (28 * BILLION, 56 * BILLION)
    assert sizes.training == 112 * BILLION  # two states at a time


PRECISIONS = {  # overrides -> bytes a weight in the checkpoint and in the state
    ("optim.precision=fp32_master",): (4, 8),
    ("optim.precision=bf16_stochastic",): (2, 6),
    ("optim=adamw",): (4, 12),
    ("optim.momentum=0.9",): (4, 12),
    ("compute.dtype=float64",): (8, 16),
}


@pytest.mark.parametrize(("overrides", "bytes_each"), PRECISIONS.items(), ids=str)
def test_bytes_of_a_weight(overrides, bytes_each):
    sizes = disk.sizes(compose(*overrides), parameters=10**6, train=10, heldout=0)
    assert (sizes.checkpoint, sizes.train_state) == tuple(10**6 * each for each in bytes_each)


def test_a_run_keeps_what_it_is_told_to():
    """Five iterations of 28 GB, in training 112: with all kept 4 x 28 + 112, with one 28 + 112."""
    run = compose()
    sizes = disk.sizes(run, parameters=7 * BILLION, train=0, heldout=0)
    small = 5 * sizes.kept
    assert sizes.of_run(5, checkpoints=5) - small == 224 * BILLION
    assert sizes.of_run(5, checkpoints=1) - small == 140 * BILLION
    assert sizes.of_run(1, checkpoints=1) - sizes.kept == 112 * BILLION


def test_a_state_that_is_never_saved_takes_no_room():
    run = compose(f"compute.save_seconds={disk.NEVER}")
    sizes = disk.sizes(run, parameters=100, train=1, heldout=1)
    assert (sizes.train_state, sizes.training) == (0, sizes.checkpoint)


def test_the_embedded_model_is_counted_by_its_headers(tmp_path):
    from safetensors import safe_open

    with safe_open(micro_folder("warm") / "model.safetensors", framework="np") as file:
        counted = sum(file.get_tensor(name).size for name in file.keys())
    assert disk.num_parameters(micro_folder("warm")) == counted
    assert disk.num_parameters(tmp_path) is None


# --- against what is written ---------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["tspin", "spin"])
@pytest.mark.parametrize("precision", ["fp32_master", "bf16_stochastic"])
def test_what_a_run_writes(tmp_path, monkeypatch, loss, precision):
    """Weights and state to 3%; the rest is never more than said, and a tenth of it at least."""
    states = []
    clear = Iteration.clear_train_state

    def clearing(out):
        states.append(disk.bytes_in(out.train_state.parent))
        clear(out)

    predicted = []
    of = disk.sizes

    def sized(*args, **options):
        predicted.append(of(*args, **options))
        return predicted[-1]

    monkeypatch.setattr(Iteration, "clear_train_state", clearing)
    monkeypatch.setattr(disk, "sizes", sized)
    precise = [f"optim.precision={precision}", "compute.save_seconds=0"]
    folder, _ = play(tmp_path, loss, *precise)
    (sizes,) = predicted
    out = folder.iteration(1)
    assert disk.bytes_in(out.checkpoint) == pytest.approx(sizes.checkpoint, rel=0.03)
    assert states == pytest.approx([sizes.train_state] * 2, rel=0.03)
    written = {
        "samples": disk.bytes_in(out.synthetic.path),
        "scores": out.scores.stat().st_size,
        "answers": out.answers.stat().st_size,
        "metrics": out.metrics.stat().st_size,
    }
    if loss == "spin":
        written["ref_scores"] = out.ref_scores.stat().st_size
    for name, size in written.items():
        assert 0.1 * getattr(sizes, name) < size <= getattr(sizes, name), name


# --- refused in time -----------------------------------------------------------------------------


def full(monkeypatch, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, free))


def test_no_room_to_train_is_said_before_training(tmp_path, monkeypatch):
    full(monkeypatch, 4_000_000)
    with pytest.raises(OSError, match="iteration 0: train needs 7.") as refused:
        play(tmp_path, "tspin")
    said = str(refused.value)
    out = RunDir(tmp_path / "tspin").iteration(0)
    for word in ("checkpoint", "train_state", "4 MB are free", "runs_dir=", str(out.path)):
        assert word in said
    assert "keep=last" not in said  # nothing is there to remove
    assert not out.metrics.exists()
    monkeypatch.undo()
    assert play(tmp_path, "tspin")[0].iterations() == [0, 1]


def test_the_way_out_names_what_earlier_checkpoints_hold(finished_copy, tmp_path, monkeypatch):
    """Of the two iterations that it links from the run beside it."""
    full(monkeypatch, 4_000_000)
    options = ["selfplay.iterations=3", "data.size=24"]
    with pytest.raises(OSError, match=r"selfplay.keep=last \(removes 1.\d* MB of earlier"):
        play(tmp_path, "tspin", *options, name="three")
    with pytest.raises(OSError) as refused:
        play(tmp_path, "tspin", *options, "selfplay.keep=last", name="three")
    assert "keep=last" not in str(refused.value)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1.85e6, "1.85 MB"), (29e9, "29 GB")]
)
def test_bytes_for_people(size, text):
    assert disk.amount(size) == text
