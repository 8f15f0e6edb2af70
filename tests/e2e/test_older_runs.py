"""Run folders of version 0.1.0 stay good: they are complete, resume, are reported and exported.

tests/golden/version_0_1_0 is what that version left with these words, of a random model with 6 000
weights: `whole`, and `begun` (with selfplay.share=false), interrupted at step 2 of iteration 1.
"""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tspin.runs.artifacts import RunDir
from tspin.runs.metrics import StepLog
from tspin.tools.files import file_digest, read_json

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "version_0_1_0"
WORDS = (
    "model=custom model.name=tiny model.path=model model.template=none model.max_length=48 "
    "loss=tspin data=file data.path=pairs.jsonl data.heldout=4 selfplay.iterations=2 "
    "optim.batch_size=4 optim.epochs=2 optim.lr=0.01 decoding.max_new_tokens=6 compute=cpu "
    "compute.dtype=float32 compute.threads=1 compute.save_seconds=0 track=none track.report=false"
).split()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder with the model, the pairs and the runs that version 0.1.0 left."""
    return Path(shutil.copytree(GOLDEN, tmp_path_factory.mktemp("old") / "place"))


@pytest.fixture
def command(forker, place):
    """Runs `python ...` there. -> what it says on both streams"""

    def call(*arguments):
        done = forker.python(*arguments, cwd=place)
        return done.out + done.err

    return call


def digests(run):
    files = [path for path in run.path.rglob("*") if path.suffix in (".safetensors", ".parquet")]
    return {str(path.relative_to(run.path)): file_digest(path) for path in files}


def test_what_was_complete_is_complete(command, place):
    run = RunDir(place / "runs" / "whole")
    before = digests(run)
    assert "nothing to do" in command(str(ROOT / "main.py"), *WORDS, "name=whole")
    assert before and digests(run) == before


def test_what_was_interrupted_goes_on(command, place):
    """From its saved step, to the weights that the whole run has, up to another machine's bits."""
    run, whole = RunDir(place / "runs" / "begun"), RunDir(place / "runs" / "whole")
    first = (run.iteration(1).metrics).read_text().splitlines()
    assert len(first) == 2
    command(str(ROOT / "main.py"), *WORDS, "name=begun", "selfplay.share=false")
    rows = StepLog.read(run.iteration(1).metrics)
    assert [row["step"] for row in rows] == [0, 1, 2, 3] and rows[:2] == [*map(json.loads, first)]
    ours, theirs = (
        load_file(other.iteration(1).checkpoint / "model.safetensors") for other in (run, whole)
    )
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert (ours[name] - theirs[name]).abs().max() < 1e-3


def test_a_report_is_made_of_them(command, place):
    command("-m", "analysis", "all", "runs=runs", "out=report")
    text = (place / "report" / "index.html").read_text(encoding="utf-8")
    assert "T-SPIN" in text


def test_they_export(command, place):
    command("-m", "tspin", "export", "run=runs/whole", "iteration=1", "to=out")
    exported = AutoModelForCausalLM.from_pretrained(place / "out").state_dict()
    weights = load_file(place / "runs" / "whole" / "iter_1" / "checkpoint" / "model.safetensors")
    assert all(exported[name].equal(weights[name]) for name in weights)
    command("-m", "tspin", "pairs", "run=runs/whole", "iteration=1", "to=pairs")
    assert "complete" in command("-m", "tspin", "status")


def test_iterations_are_shared_with_new_runs(command, place):
    """A new run that begins alike links the old iteration: its key is what it was."""
    other = [word for word in WORDS if not word.startswith("loss=")]
    command(str(ROOT / "main.py"), *other, "loss=wo_ha", "name=new", "selfplay.iterations=1")
    done = read_json(place / "runs" / "new" / "iter_0" / "done.json")
    assert done["from"] in ("begun/iter_0", "whole/iter_0")
