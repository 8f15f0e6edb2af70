"""Signals that want the machine back: what they become, and who is asked to requeue.

A real training is preempted in test_preempted.py; here by submitit's local executor, which
requeues.
"""

import json
import os
import re
import signal
import time
from importlib.util import find_spec

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from support.waiting import until

from tspin.cli.folders import CONF, root
from tspin.runs.artifacts import RunDir
from tspin.tools import signals
from tspin.tools.files import owner
from tspin.tools.signals import REQUEUE, Preempted

ROOT = root()
HANDLED = (*signals.SIGNALS, signal.SIGALRM)


@pytest.fixture(autouse=True)
def untouched(monkeypatch):
    """This process goes on, whatever a test has told it."""
    monkeypatch.setattr(signals, "_watch", signals._Watch())
    before = {number: signal.getsignal(number) for number in HANDLED}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


# --- what a signal becomes -----------------------------------------------------------------------


@pytest.mark.parametrize("number", signals.SIGNALS, ids=lambda n: n.name)
def test_at_once_where_nothing_holds_it(number):
    done = []
    with pytest.raises(Preempted, match=number.name), signals.watched(60):
        send(number)
        done.append("behind")
    assert done == []


def test_it_is_no_failure():
    with pytest.raises(Preempted), signals.watched(60):
        try:
            send()
        except Exception:
            pytest.fail("taken for one")


def test_a_held_block_goes_on_to_its_boundary():
    steps = []
    with pytest.raises(Preempted), signals.watched(60), signals.held():
        for step in range(5):
            if step == 1:
                send()
            steps.append(step)
            if signals.boundary():
                steps.append("saved")
                signals.stop()
    assert steps == [0, 1, "saved"]


def test_a_held_block_that_asks_nobody_is_stopped_at_its_end():
    done = []
    with pytest.raises(Preempted), signals.watched(60):
        with signals.held():
            send()
            done.append("inside")
        done.append("behind")
    assert done == ["inside"]


def test_without_a_boundary_the_grace_is_the_limit():
    with pytest.raises(Preempted), signals.watched(0.05), signals.held():
        send()
        until(lambda: False)


def test_saving_takes_what_it_takes():
    """From the boundary on the grace does not count, and repeated signals change nothing."""
    done = []
    with pytest.raises(Preempted), signals.watched(0.05), signals.held():
        send()
        assert signals.boundary()
        send()
        time.sleep(0.2)
        done.append("saved")
        signals.stop()
    assert done == ["saved"]
    send()  # nor does one that comes while everything is let go of


def test_a_process_that_was_preempted_begins_nothing_more():
    """A worker of joblib is given the next point of the sweep."""
    with pytest.raises(Preempted), signals.watched(60):
        send()
    with pytest.raises(Preempted), signals.watched(60):
        pytest.fail("begun")


def test_without_a_signal_everything_is_as_before():
    before = [signal.getsignal(number) for number in HANDLED]
    with signals.watched(60), signals.held():
        assert not signals.boundary()
    assert [signal.getsignal(number) for number in HANDLED] == before


# --- who requeues --------------------------------------------------------------------------------

SLURM, LOCAL = {"SUBMITIT_EXECUTOR": "slurm"}, {"SUBMITIT_EXECUTOR": "local"}


@pytest.mark.parametrize(
    ("environment", "number", "asked"),
    [
        ({}, signal.SIGTERM, None),
        ({}, signal.SIGUSR2, None),
        (LOCAL, signal.SIGTERM, True),
        (SLURM, signal.SIGUSR2, True),
        (SLURM, signal.SIGUSR1, True),
        (SLURM, signal.SIGTERM, False),  # it may be scancel
        (SLURM | {"SUBMITIT_PREEMPT_SIGNAL": "USR1"}, signal.SIGUSR1, True),
    ],
)
def test_submitit_is_asked_where_it_may_requeue(environment, number, asked, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    told = []
    theirs = signal.Signals[f"SIG{environment.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
    signal.signal(theirs, lambda *args: told.append(args))
    with pytest.raises(Preempted), signals.watched(60):
        send(number)
    if asked is None:
        assert signals.leave() == REQUEUE
    else:
        with pytest.raises(SystemExit) as left:
            signals.leave()
        assert left.value.code == REQUEUE
    assert told == ([(number, None)] if asked else [])


TINY = ["track=none", "track.report=false", "data.size=256", "data.heldout=4",
        "selfplay.iterations=1", "name=run", "optim.batch_size=4", "optim.epochs=1",
        "compute.save_seconds=1e9"]  # fmt: skip


def weights(folder):
    return json.loads((folder / "runs/run/iter_0/done.json").read_text())["weights"]


def preempted(forker, folder, launcher, pid):
    """A sweep of one point under `launcher`, sent SIGTERM while it trains. -> the ended sweep

    pid  of the process that is sent it, from that of the sweep
    """
    if find_spec(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher") is None:
        pytest.skip(f"hydra-{launcher.split('_')[0]}-launcher is not installed")
    folder.mkdir()
    words = [str(ROOT / "main.py"), *TINY, "-m", f"hydra/launcher={launcher}"]
    sweep = forker.start_python(*words, cwd=folder)
    metrics = folder / "runs/run/iter_0/metrics.jsonl"
    until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 2, 400)
    os.kill(pid(sweep), signal.SIGTERM)
    return sweep


@pytest.mark.process
def test_submitit_requeues_a_job_that_ends_with_the_weights_of_an_unbroken_one(forker, tmp_path):
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    jobs = broken / "runs/multirun/.submitit"
    # A job is called by the process that starts it, which passes signals on.
    sweep = preempted(
        forker, broken, "submitit_local", lambda sweep: int(next(jobs.glob("[0-9]*")).name)
    )
    assert "multirun: 1 point, 0 done, 1 to run" in sweep.ended().err
    log = "".join(path.read_text() for path in jobs.glob("*/*_log.*"))
    assert "Requeued job" in log and log.count("stopped by SIGTERM") == 1
    first, _ = json.loads((broken / "runs/run/provenance.json").read_text())["launches"]
    assert {"data.size=256", "optim.epochs=1"} <= set(first["command"])  # the point's words
    whole.mkdir()
    forker.python(str(ROOT / "main.py"), *TINY, cwd=whole)
    assert weights(broken) == weights(whole)


@pytest.mark.process
def test_a_signal_ends_a_joblib_sweep_and_its_workers(forker, tmp_path):
    """Nothing is asked to save: no process is left, and the same command goes on."""
    sweep = preempted(forker, tmp_path / "run", "joblib", lambda sweep: sweep.pid)
    said = sweep.ended(REQUEUE).err
    assert said.count("stopped by SIGTERM; the same command goes on from here") == 1
    run = RunDir(tmp_path / "run/runs/run")
    with owner(run.path):  # its lock is free: the worker is gone
        assert not run.iteration(0).done.exists()


# --- Slurm ---------------------------------------------------------------------------------------


def executable(folder, name, text):
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)


def test_the_preset_for_slurm_is_a_preemptible_array(tmp_path, monkeypatch):
    """The batch file that submitit writes for hydra/launcher=slurm."""
    if find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        pytest.skip("hydra-submitit-launcher is not installed")
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    for name in ("srun", "sbatch"):
        executable(tmp_path, name, "")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", ["hydra/launcher=slurm"], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    told = OmegaConf.to_container(cfg.hydra.launcher, resolve=True)
    del told["_target_"], told["submitit_folder"]
    executor = submitit.AutoExecutor(
        tmp_path / "jobs", cluster="slurm", slurm_max_num_timeout=told.pop("max_num_timeout")
    )
    common = set(OmegaConf.structured(BaseQueueConf).keys())  # as the launcher tells them apart
    executor.update_parameters(
        **{key if key in common else f"slurm_{key}": value for key, value in told.items()}
    )
    text = executor._executor._make_submission_file_text("COMMAND", "uid")
    options = set(re.findall(r"^#SBATCH --(.*)$", text, re.MULTILINE))
    wanted = {"requeue", "signal=USR2@300", "open-mode=append", "time=1440", "gpus-per-node=1"}
    assert wanted <= options
