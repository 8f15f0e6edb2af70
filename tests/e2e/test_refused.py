"""A run that is there already: what may differ, and what is refused."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from support.contents import contents

from tspin.tools.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[2]


def own_model(folder: Path, which: str) -> Path:
    """A copy of an embedded model. -> its weights"""
    shutil.copytree(ROOT / "tspin/micro" / which, folder)
    return folder / "model.safetensors"


def test_another_configuration_is_refused_naming_what_differs(whole, forker):
    child = forker.run(whole["tspin"][0], "optim.lr=1e-4", "data.size=23", "data.heldout=4")
    assert child.code == 1
    assert "data.size (there 24, here 23)" in child.text
    assert "optim.lr (there 3e-05, here 0.0001)" in child.text
    assert "heldout" not in child.text and "name=" in child.text
    assert len(child.text.splitlines()) == 1


def test_keys_that_change_no_number_may_differ(whole, forker, runs):
    """The folder may move too: runs_dir is one of them."""
    shutil.copytree(whole["tspin"][0] / "run", runs / "run")
    free = ["track.project=p", "track.entity=e", "track.group=g", "track.tags=[a]"]
    free += ["track.wandb=offline", "compute.save_seconds=7", "compute.threads=2"]
    child = forker.run(runs, *free)
    assert child.code == 0, child.text
    assert "nothing to do" in child.text


def test_other_initial_weights_are_refused(forker, runs):
    weights = own_model(runs / "model", "warm")
    child = forker.run(runs, f"model.path={runs / 'model'}", at="appended 1")
    assert child.code == -signal.SIGKILL, child.text
    before = (runs / "run/iter_0/metrics.jsonl").read_bytes()
    weights.write_bytes((ROOT / "tspin/micro/base/model.safetensors").read_bytes())
    child = forker.run(runs, f"model.path={runs / 'model'}")
    *_, error = child.text.splitlines()
    assert child.code == 1 and error.startswith("error: ")
    assert "began with other weights" in error and "name=" in error
    assert (runs / "run/iter_0/metrics.jsonl").read_bytes() == before


def test_proto_samples_of_another_key_are_refused(forker, whole, runs):
    shutil.copytree(whole["tspin"][0] / "proto", runs / "proto")
    (manifest,) = (runs / "proto").glob("*/manifest.json")
    facts = read_json(manifest)
    facts["key"]["seed"] += 1
    write_json(manifest, facts)
    child = forker.run(runs)
    assert child.code == 1 and not (runs / "run/proto").exists()
    assert f"{manifest.parent} holds samples of another policy, data or decoding" in child.text


def test_a_complete_run_is_skipped_without_its_model(forker, runs):
    weights = own_model(runs / "model", "warm")
    command = [f"model.path={runs / 'model'}", "selfplay.iterations=1"]
    assert forker.run(runs, *command).code == 0
    before = contents(runs / "run")
    weights.write_bytes(b"")  # whoever loads or reads it now fails
    child = forker.run(runs, *command)
    assert child.code == 0 and "nothing to do" in child.text
    assert contents(runs / "run") == before
