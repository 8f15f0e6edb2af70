"""The copy of a run folder: what is copied when, what a fresh machine makes of it, what may fail.

Run folders are made by hand; a real run that goes on from its copy is in test_preempted.py. Each
test has a folder (file://) as the store, and a real S3 server where there is one:
pip install s3fs 'moto[server]'.
"""

import json
import logging
import os
import shutil
import threading
from dataclasses import replace
from importlib.util import find_spec

import pytest
from support.tiny import compose

from tspin.runs import mirror
from tspin.runs.artifacts import RunDir
from tspin.runs.store import Store
from tspin.tools.files import write_json, write_text
from tspin.tools.signals import Preempted

NEEDED = ("s3fs", "moto", "flask", "flask_cors")
BROKEN = OSError("the network is down")


@pytest.fixture(scope="module")
def s3():
    """The address of a server of our own."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["file", "s3"])
def url(request, tmp_path, monkeypatch):
    if request.param == "file":
        return f"file://{tmp_path / 'store'}"
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": request.getfixturevalue("s3"),
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = tmp_path.name.replace("_", "-")[:60].strip("-").lower()
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
    return f"s3://{bucket}/runs"


def settings(**values):
    return replace(compose().sync, **values)


@pytest.fixture
def sync(url):
    def make(**values):
        return settings(**{"url": url} | values)

    return make


@pytest.fixture
def machine(tmp_path):
    """The folder of the run on a machine."""
    return lambda name: RunDir(tmp_path / name / "run")


def begin(folder):
    write_text(folder.config, "name: run\n")
    write_text(folder.proto.part(0), "samples")
    write_json(folder.proto.manifest, {"num_parts": 1})


def train(folder, t, step=1):
    """Iteration t with its training state before `step`."""
    out = folder.iteration(t)
    write_text(out.train_state, f"weights of {t} before step {step}")
    write_text(out.metrics, "".join(f"step {i}\n" for i in range(step)))


def finish(folder, t):
    out = folder.iteration(t)
    for name in ("config", "model"):
        write_text(out.checkpoint / f"{name}.safetensors", f"{name} of {t}")
    out.clear_train_state()
    write_text(out.metrics, "all steps\n")
    write_text(out.evaluation, "{}")
    write_json(out.done, {"weights": t})


def copy(sync, folder):
    mirror.Mirror(sync, folder).copy()


def fetch(sync, folder, iterations=5):
    mirror.fetch(sync, folder, iterations=iterations)


def contents(folder):
    return {name: path.read_text() for name, path in mirror.files_of(folder).items()}


@pytest.fixture
def puts(monkeypatch):
    """The names that are copied, in order; MANIFEST for the manifest."""
    found = []
    put, write = Store.put, Store.write_record

    def putting(store, file, name):
        found.append(name)
        put(store, file, name)

    def writing(store, record):
        found.append("MANIFEST")
        write(store, record)

    monkeypatch.setattr(Store, "put", putting)
    monkeypatch.setattr(Store, "write_record", writing)
    return found


# --- there and back ------------------------------------------------------------------------------


def test_a_fresh_machine_has_the_same_folder(sync, machine):
    first, second = machine("first"), machine("second")
    begin(first)
    finish(first, 0)
    train(first, 1, step=3)
    write_text(first.path / "wandb/offline", "a view of the metrics")
    copy(sync(), first)
    fetch(sync(), second)
    shutil.rmtree(first.path / "wandb")  # rebuilt from the files
    assert contents(second) == contents(first)
    copy(sync(), second)  # nothing new: it knows that it has what is there
    finish(second, 1)
    copy(sync(), second)
    fetch(sync(), first)  # the first machine is back, with less than there is
    assert contents(first) == contents(second)
    assert not first.iteration(1).train_state.exists()


def test_what_says_that_others_are_complete_comes_last(sync, machine, puts):
    folder = machine("first")
    begin(folder)
    train(folder, 1)
    finish(folder, 0)
    copy(sync(), folder)
    last = ["iter_0/eval.json", "iter_0/metrics.jsonl", "iter_1/metrics.jsonl"]
    assert puts[-6:] == [*last, "proto/manifest.json", "iter_0/done.json", "MANIFEST"]


def test_what_is_there_is_not_copied_again(sync, machine, puts):
    folder = machine("first")
    begin(folder)
    finish(folder, 0)
    copy(sync(), folder)
    puts.clear()
    copy(sync(), folder)
    assert puts == []
    os.utime(folder.config)  # touched: read again, but not copied
    copy(sync(), folder)
    assert puts == ["MANIFEST"]
    puts.clear()
    write_text(folder.iteration(0).evaluation, '{"benchmarks": 1}')
    copy(sync(), folder)
    assert puts == ["iter_0/eval.json", "MANIFEST"]


@pytest.mark.parametrize("broken", ["iter_0/checkpoint/model.safetensors", "iter_0/done.json"])
def test_a_copy_that_stops_in_the_middle_is_as_before(broken, sync, machine, monkeypatch):
    """Objects that the manifest does not name are not taken."""
    first, second = machine("first"), machine("second")
    begin(first)
    train(first, 0, step=2)
    copy(sync(), first)
    finish(first, 0)
    put = Store.put

    def failing(store, file, name):
        if name == broken:
            raise BROKEN
        put(store, file, name)

    monkeypatch.setattr(Store, "put", failing)
    with pytest.raises(OSError):
        copy(sync(), first)
    fetch(sync(), second)
    assert second.iterations() == [] and not second.iteration(0).checkpoint.exists()
    assert second.iteration(0).train_state.read_text() == "weights of 0 before step 2"
    monkeypatch.setattr(Store, "put", put)
    copy(sync(), first)
    fetch(sync(), machine("third"))
    assert contents(machine("third")) == contents(first)


def test_a_training_state_newer_than_its_manifest_is_left_out(sync, machine, monkeypatch):
    """The metrics beside it end before its step."""
    first, second = machine("first"), machine("second")
    begin(first)
    train(first, 0, step=1)
    copy(sync(), first)
    train(first, 0, step=2)
    monkeypatch.setattr(Store, "write_record", lambda *_: (_ for _ in ()).throw(BROKEN))
    with pytest.raises(OSError):
        copy(sync(), first)
    fetch(sync(), second)
    assert not second.iteration(0).train_state.exists() and second.config.exists()


def test_a_damaged_checkpoint_is_refused(sync, machine):
    first, second = machine("first"), machine("second")
    begin(first)
    finish(first, 0)
    copy(sync(), first)
    write_text(first.iteration(0).checkpoint / "model.safetensors", "other weights")
    name = "iter_0/checkpoint/model.safetensors"
    Store(sync().url, "run").put(first.path / name, name)
    with pytest.raises(ValueError, match=f"{name} is not the file that was copied"):
        fetch(sync(), second)
    assert not second.iteration(0).checkpoint.exists() and not second.iteration(0).done.exists()


# --- what is copied ------------------------------------------------------------------------------


def weights_there(sync, machine, name):
    fetch(sync, machine(name))
    return sorted(path.parent.name for path in machine(name).path.glob("iter_*/checkpoint"))


def test_the_last_checkpoint_alone(sync, machine):
    last, folder = sync(checkpoints="last"), machine("first")
    begin(folder)
    finish(folder, 0)
    copy(last, folder)
    assert weights_there(last, machine, "second") == ["iter_0"]
    finish(folder, 1)
    copy(last, folder)
    assert weights_there(last, machine, "third") == ["iter_1"]
    with pytest.raises(FileNotFoundError):  # not only unnamed: gone
        Store(last.url, "run").get("iter_0/checkpoint/model.safetensors", folder.path / ".x")


def test_results_without_weights_are_no_run_to_go_on_from(sync, machine):
    none, folder = sync(checkpoints="none", train_state=False), machine("first")
    begin(folder)
    finish(folder, 0)
    train(folder, 1)
    copy(none, folder)
    with pytest.raises(ValueError, match="iteration 0 without its weights"):
        fetch(none, machine("second"))
    fetch(none, machine("third"), iterations=1)  # complete: there is nothing to go on with
    assert machine("third").iterations() == [0]
    assert not machine("third").iteration(1).train_state.exists()


def test_what_is_removed_here_stays_there(sync, machine):
    """To make room is what a copy is for; of a training state nothing stays."""
    folder = machine("first")
    begin(folder)
    finish(folder, 0)
    train(folder, 1)
    copy(sync(), folder)
    shutil.rmtree(folder.iteration(0).checkpoint)
    finish(folder, 1)
    copy(sync(), folder)
    assert weights_there(sync(), machine, "second") == ["iter_0", "iter_1"]
    assert not machine("second").iteration(1).train_state.exists()


# --- two machines --------------------------------------------------------------------------------


def test_who_is_overtaken_stops_copying(sync, machine, caplog):
    first, second = machine("first"), machine("second")
    begin(first)
    copy(sync(), first)
    fetch(sync(), second)
    finish(second, 0)
    copy(sync(), second)
    train(first, 0)
    with mirror.mirrored(sync(), first, grace=60):
        pass
    assert "another machine goes on with this run there; nothing more is copied" in caplog.text
    fetch(sync(), first)
    assert contents(first) == contents(second)


def test_two_runs_of_one_name_are_kept_apart(sync, machine):
    first, second = machine("first"), machine("second")
    begin(first)
    copy(sync(), first)
    begin(second)
    with pytest.raises(ValueError, match="both hold a run and neither is the other's copy"):
        fetch(sync(), second)


def test_a_store_that_was_emptied_is_filled_again(sync, machine):
    folder = machine("first")
    begin(folder)
    copy(sync(), folder)
    elsewhere = sync(url=sync().url + "2")
    fetch(elsewhere, folder)
    copy(elsewhere, folder)
    fetch(elsewhere, machine("second"))
    assert contents(machine("second")) == contents(folder)


# --- failures ------------------------------------------------------------------------------------


@pytest.fixture
def folder_sync(tmp_path):
    url = f"file://{tmp_path / 'store'}"
    return settings(url=url)


def test_a_store_that_fails_is_said_once_and_never_stops_a_run(
    folder_sync, machine, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    folder, tries = machine("first"), []
    begin(folder)
    write = Store.write_record

    def failing(store, record):
        tries.append(1)
        if len(tries) <= 2:
            raise BROKEN
        write(store, record)

    monkeypatch.setattr(Store, "write_record", failing)
    with mirror.mirrored(folder_sync, folder, grace=60) as push:
        push()
        push()
        fetch(folder_sync, machine("early"))
        assert not machine("early").path.exists()
        push()
        assert "everything is there again" in caplog.text
    assert caplog.text.count("the network is down; the run goes on") == 1
    assert caplog.text.count("everything is there again") == 1 and "lacks" not in caplog.text
    fetch(folder_sync, machine("second"))
    assert contents(machine("second")) == contents(folder)


def test_what_a_run_pushes_is_there_before_it_ends(folder_sync, machine):
    folder = machine("first")
    with mirror.mirrored(folder_sync, folder, grace=60) as push:
        begin(folder)
        push()
        fetch(folder_sync, machine("second"))
        assert contents(machine("second")) == contents(folder)


def test_at_the_end_it_says_what_is_missing(folder_sync, machine, monkeypatch, caplog):
    monkeypatch.setattr(Store, "put", lambda *_: (_ for _ in ()).throw(BROKEN))
    folder = machine("first")
    with mirror.mirrored(folder_sync, folder, grace=60):
        begin(folder)
    said = caplog.messages[-1]
    assert f"{folder_sync.url}/run lacks 3 files" in said and "(config.yaml, proto/" in said
    assert said.endswith("the network is down; the same command copies them")


def test_a_preempted_run_waits_no_longer_than_its_grace(folder_sync, machine, monkeypatch, caplog):
    endless = threading.Event()
    monkeypatch.setattr(Store, "put", lambda *_: endless.wait())
    folder = machine("first")
    begin(folder)
    with pytest.raises(Preempted), mirror.mirrored(folder_sync, folder, grace=0.05):
        raise Preempted("SIGTERM")
    assert caplog.messages[-1].endswith("there was no time left; the same command copies them")
    endless.set()


def test_unreadable_it_is_refused_only_where_nothing_is_known(
    folder_sync, machine, monkeypatch, caplog
):
    known = machine("first")
    begin(known)
    copy(folder_sync, known)
    monkeypatch.setattr(Store, "record", lambda _: (_ for _ in ()).throw(BROKEN))
    fetch(folder_sync, known)
    assert "cannot be read: the network is down; going on from the files here" in caplog.text
    with pytest.raises(ValueError, match="may hold this run: the network is down"):
        fetch(folder_sync, machine("second"))


def test_an_unknown_protocol_is_an_error_at_the_start(machine, folder_sync):
    with pytest.raises(ValueError, match=r"^sync.url=tape://x: "):
        fetch(settings(url="tape://x"), machine("x"))


def test_without_its_client_it_says_what_to_install(machine, monkeypatch):
    if find_spec("s3fs") is not None:
        pytest.skip("s3fs is installed")
    with pytest.raises(ValueError, match=r"pip install -e '\.\[remote\]'"):
        fetch(settings(url="s3://x"), machine("x"))


def test_without_a_url_nothing_is_written(machine):
    off = settings(url=None)
    folder = machine("first")
    begin(folder)
    before = sorted(folder.path.rglob("*"))
    fetch(off, folder)
    with mirror.mirrored(off, folder, grace=60):
        pass
    assert sorted(folder.path.rglob("*")) == before


def test_the_manifest_is_what_it_says(folder_sync, machine, tmp_path):
    folder = machine("first")
    begin(folder)
    copy(folder_sync, folder)
    there = json.loads((tmp_path / "store/run/mirror.json").read_text())
    assert there["revision"] == 1
    assert {name: facts["size"] for name, facts in there["files"].items()} == {
        "config.yaml": len("name: run\n"),
        "proto/manifest.json": folder.proto.manifest.stat().st_size,
        "proto/part-00000.parquet": len("samples"),
    }
