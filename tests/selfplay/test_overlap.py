"""compute.overlap: one iteration is judged while the next one trains, and no bit is another."""

import sys
from types import SimpleNamespace

import pytest
import torch
from support.contents import contents
from support.tiny import compose, interrupted, play

from tspin.runs.artifacts import RunDir
from tspin.selfplay import overlap
from tspin.selfplay.iteration import IterationStages
from tspin.tools.files import read_json
from tspin.tools.threads import threads

pytestmark = [pytest.mark.runs, pytest.mark.process]

WORDS = ("selfplay.iterations=3", "selfplay.share=false", "compute.device=cpu", "compute.threads=1")
BESIDE = "compute.overlap=true"
FAILING = "from tspin.tools.child import serve; serve(lambda receive, send: [][receive()])"


def of(root, *words):
    folder, _ = play(root, "tspin_ref", *WORDS, *words)
    return folder


def values(folder):
    """What a run left, but for its configuration."""
    return {name: value for name, value in contents(folder.path).items() if name != "config.yaml"}


def kernels(folder):
    return read_json(folder.provenance)["launches"][-1]["arithmetic"]["kernels"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One iteration after the other."""
    return of(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def here(monkeypatch):
    """The iterations that this process has scored."""
    score, scored = IterationStages.score, []

    def recorded(self):
        scored.append(self.t)
        score(self)

    monkeypatch.setattr(IterationStages, "score", recorded)
    return scored


def test_what_a_run_leaves_is_the_same_to_the_bit(whole, here, tmp_path):
    folder = of(tmp_path, BESIDE)
    assert here == [2]  # the last one has none to be beside
    assert values(folder) == values(whole)
    assert kernels(folder) == kernels(whole)
    for t in range(3):
        assert {"train", "score", "evaluate"} <= read_json(folder.iteration(t).stages).keys()


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL, as when memory runs out"),
        (FAILING, "TypeE"),
    ],
)
def test_without_its_process_a_run_goes_on_alone(
    whole, here, tmp_path, monkeypatch, caplog, program, says
):
    monkeypatch.setattr(overlap, "COMMAND", [sys.executable, "-c", program])
    folder = of(tmp_path, BESIDE)
    assert here == [0, 1, 2]
    (said,) = [line for line in caplog.messages if "goes on alone" in line]
    assert says in said
    assert values(folder) == values(whole)


def test_stopped_while_one_is_behind_it_goes_on_to_the_same_bits(whole, tmp_path):
    with interrupted(after=4):  # in iteration 1: three steps are an iteration
        of(tmp_path, BESIDE)
    folder = RunDir(tmp_path / "tspin_ref")
    assert folder.iteration(0).checkpoint.exists() and not folder.iteration(0).done.exists()
    of(tmp_path)
    assert values(folder) == values(whole)


def test_a_policy_that_diverged_stops_the_run_by_its_own_name(tmp_path, monkeypatch):
    """Iteration 1 trains from it before it is known, and may fail first."""
    monkeypatch.setattr(overlap, "COMMAND", [sys.executable, "-c", FAILING])
    with pytest.raises(FloatingPointError, match="diverged at iteration 0: log pi"):
        of(tmp_path, BESIDE, "loss=sft", "optim.lr=[1,1e-4,1e-4]")
    folder = RunDir(tmp_path / "tspin_ref")
    assert not folder.iteration(0).done.exists() and not folder.iteration(1).done.exists()


def test_scores_that_choose_prompts_are_waited_for(here, tmp_path):
    of(tmp_path, BESIDE, "curriculum=random", "curriculum.share=0.5")
    assert here == [0, 1, 2]


@pytest.mark.parametrize(
    ("words", "size", "why"),
    [
        ((), 1, None),
        ((), 2, "several processes"),
        (("decoding.engine=vllm",), 1, "engine=vllm has processes of its own"),
    ],
)
def test_where_it_cannot_be_the_reason_is_known(words, size, why):
    cfg = compose("compute.device=cpu", BESIDE, *words)
    found = overlap._cannot(cfg, SimpleNamespace(size=size))
    assert found is None if why is None else why in found


def test_two_processes_share_the_threads_of_the_machine():
    """One run after the other in one process, each with its own."""
    alone, found = SimpleNamespace(size=1), []
    with threads(6):
        for words in (("threads=4",), ("threads=4", "overlap=true"), ("overlap=true",), ()) * 2:
            keys = [f"compute.{word}" for word in ("device=cpu", "threads=null", *words)]
            with threads(overlap.num_threads(compose(*keys), alone)):
                found.append(torch.get_num_threads())
    assert found == [4, 4, 3, 6] * 2
