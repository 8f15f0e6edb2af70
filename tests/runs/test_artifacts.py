"""Files that exist are complete; rows, links, digests and claims of a run's folder. No torch."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tspin.runs import artifacts
from tspin.runs.artifacts import PROMPTS, RESPONSES, SCORES, Iteration, Responses, RunDir
from tspin.runs.metrics import StepLog
from tspin.tools.files import (
    LARGE,
    atomic,
    digest,
    file_digest,
    flatten,
    link,
    owner,
    read_json,
    room_for,
    write_json,
    write_jsonl,
    write_text,
)
from tspin.tools.parquet import read_rows, write_rows

ROW = {
    "id": "a", "split": "train", "annotated": "", "system": None, "history": [["u", "v"]],
    "prompt": "Gr\u00fc\u00dfe, \u4f60\u597d \U0001f600\n",
    "prompt_ids": [0, 2**31 - 1], "annotated_ids": [],
}  # fmt: skip


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


# --- atomic ----------------------------------------------------------------------------------


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "below" / "file"
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "new" and names(path.parent) == ["file"]


def test_a_folder_appears_when_it_is_whole_and_replaces_the_old_one(tmp_path):
    for word in ("old", "new"):
        with atomic(tmp_path / "folder") as temporary:
            (temporary / "deep").mkdir(parents=True)
            (temporary / "deep" / word).write_text(word)
    assert names(tmp_path) == ["folder", "folder/deep", "folder/deep/new"]


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_a_failure_leaves_the_old_one_and_no_temporary(tmp_path, kind, error):
    def write(temporary, text):
        if kind == "folder":
            temporary.mkdir()
        (temporary / "x" if kind == "folder" else temporary).write_text(text)

    path = tmp_path / "it"
    with atomic(path) as temporary:
        write(temporary, "old")
    before = names(tmp_path)
    with pytest.raises(type(error)), atomic(path) as temporary:
        write(temporary, "half")
        raise error
    assert names(tmp_path) == before
    assert (path / "x" if kind == "folder" else path).read_text() == "old"


def test_a_failed_rename_leaves_the_old_one(tmp_path, monkeypatch):
    write_text(tmp_path / "file", "old")
    with monkeypatch.context() as patched, pytest.raises(OSError, match="no rename"):
        patched.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no rename")))
        write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old" and names(tmp_path) == ["file"]


@pytest.mark.parametrize("stray", ["file", "folder"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_writer_left_is_overwritten(tmp_path, stray, kind):
    """Whatever it was: nothing of it gets into the new one."""
    with atomic(tmp_path / "it") as temporary:
        left = temporary
        temporary.write_text("x")
    (tmp_path / "it").unlink()
    if stray == "folder":
        left.mkdir()
    (left / "stray" if stray == "folder" else left).write_text("half a ")
    with atomic(tmp_path / "it") as temporary:
        assert not temporary.exists()
        if kind == "folder":
            temporary.mkdir()
        else:
            temporary.write_text("whole")
    assert names(tmp_path) == ["it"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_everything_is_on_disk_before_it_is_renamed(tmp_path, monkeypatch):
    """Or a power cut could leave a name without its bytes: files, then folder, then rename."""
    seen, fsync, replace = [], os.fsync, os.replace

    def synced(descriptor):
        seen.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append("rename"), replace(a, b)))
    with atomic(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "b").write_text("2")
        (temporary / "a").write_text("1")
    assert seen == ["a", "b", temporary.name, "rename", tmp_path.name]


# --- a full disk -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "Error writing bytes to file"),  # arrow: no file name
        OSError(errno.EDQUOT, "quota"),
        RuntimeError("I/O error: No space left on device (os error 28)"),  # safetensors
    ],
    ids=["arrow", "quota", "safetensors"],
)
def test_a_full_disk_names_the_file_and_the_way_out(tmp_path, error):
    path = tmp_path / "file"
    with pytest.raises(OSError, match="same command again.*file") as raised, atomic(path) as tmp:
        tmp.write_text("half")
        raise error
    assert raised.value.errno in (errno.ENOSPC, errno.EDQUOT)
    assert raised.value.filename == str(path) and raised.value.__cause__ is error
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(errno.EIO, "bad sector"), ValueError("28")])
def test_another_failure_travels_as_it_is(tmp_path, error):
    with pytest.raises(type(error)) as raised, room_for(tmp_path / "file"):
        raise error
    assert raised.value is error


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, which is always full")
def test_a_row_of_metrics_that_finds_no_room_names_its_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    record = StepLog(path)
    record._file.close()
    record._file = open("/dev/full", "a")
    with pytest.raises(OSError, match="No space left.*metrics.jsonl"), record:
        record.append({"step": 0})


# --- rows, links, digests --------------------------------------------------------------------


def test_rows_come_back_as_they_went(tmp_path):
    rows = [ROW, ROW | {"id": "b", "prompt": "", "annotated": "\u2028\t\"'\\"}]
    write_rows(tmp_path / "rows.parquet", rows, PROMPTS)
    assert read_rows(tmp_path / "rows.parquet") == rows


def test_a_column_that_a_row_lacks_is_null_and_none_is_a_table_too(tmp_path):
    write_rows(tmp_path / "some.parquet", [{"id": "a", "logp": -0.1}], SCORES)
    (row,) = read_rows(tmp_path / "some.parquet")
    assert row["logp"] == -0.1 and row["reward"] is None and list(row) == SCORES.names
    write_rows(tmp_path / "none.parquet", [], SCORES)
    assert read_rows(tmp_path / "none.parquet") == []


@pytest.mark.parametrize("wrong", [{"num_tokens": "many"}, {"response_ids": [2**31]}])
def test_a_value_of_another_type_is_refused_and_leaves_nothing(tmp_path, wrong):
    with pytest.raises(Exception, match="Could not convert|out of bounds|int"):
        write_rows(tmp_path / "rows.parquet", [{"id": "a"} | wrong], RESPONSES)
    assert names(tmp_path) == []


def test_json_keeps_unicode_and_refuses_what_is_no_json(tmp_path):
    write_json(tmp_path / "a.json", {"\u00e9": [1, None, "\U0001f600"]})
    assert read_json(tmp_path / "a.json") == {"\u00e9": [1, None, "\U0001f600"]}
    write_jsonl(tmp_path / "a.jsonl", [{"text": "two\nlines"}, {}])
    assert (tmp_path / "a.jsonl").read_text().count("\n") == 2
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", float("nan"))
    assert read_json(tmp_path / "a.json") == {"\u00e9": [1, None, "\U0001f600"]}


def sampled(folder: Path) -> Responses:
    samples = Responses(folder)
    for index, word in enumerate("ab"):
        row = {"id": word, "response": word, "response_ids": [index], "num_tokens": 1}
        write_rows(samples.part(index), [row], RESPONSES)
    return samples


def listed(samples: Responses) -> dict[str, list[int]]:
    return {i: list(ids) for i, ids in samples.ids().items()}


def test_samples_exist_with_their_manifest_and_not_before(tmp_path):
    samples = sampled(tmp_path / "proto")
    assert not samples.exists()
    write_json(samples.manifest, {"num_parts": 2})
    assert samples.exists() and listed(samples) == {"a": [0], "b": [1]}


def test_only_the_parts_of_the_manifest_are_read(tmp_path):
    samples = sampled(tmp_path / "proto")
    write_json(samples.manifest, {"num_parts": 1})
    (samples.path / ".part-00000.parquet.tmp").write_text("half")
    assert listed(samples) == {"a": [0]}


def test_a_link_shares_the_bytes_and_outlives_the_source(tmp_path):
    samples = sampled(tmp_path / "proto")
    write_json(samples.manifest, {"num_parts": 2})
    (samples.path / ".lock").touch()
    link(samples.path, tmp_path / "run" / "proto")
    linked = Responses(tmp_path / "run" / "proto")
    assert names(linked.path) == ["manifest.json", "part-00000.parquet", "part-00001.parquet"]
    assert linked.part(0).stat().st_ino == samples.part(0).stat().st_ino
    write_json(samples.manifest, {"num_parts": 0})  # a write replaces, it never reaches through
    assert linked.facts() == {"num_parts": 2} and listed(linked) == {"a": [0], "b": [1]}


def test_a_link_takes_folders_along_and_leaves_what_it_is_told_to(tmp_path):
    for name in ("checkpoint/a", "checkpoint/deep/b", "done.json", ".lock"):
        (tmp_path / "it" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "it" / name).touch()
    link(tmp_path / "it", tmp_path / "twin", leave=("done.json",))
    assert names(tmp_path / "twin") == ["checkpoint", "checkpoint/a", "checkpoint/deep",
                                        "checkpoint/deep/b"]  # fmt: skip
    assert (tmp_path / "twin/checkpoint/a").samefile(tmp_path / "it/checkpoint/a")


def test_a_link_is_a_copy_where_the_disk_has_none(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "cross-device")

    monkeypatch.setattr(os, "link", refuse)
    samples = sampled(tmp_path / "proto")
    link(samples.path, tmp_path / "copy")
    assert (tmp_path / "copy/part-00000.parquet").read_bytes() == samples.part(0).read_bytes()
    assert (tmp_path / "copy/part-00000.parquet").stat().st_ino != samples.part(0).stat().st_ino


def test_a_digest_is_a_function_of_the_values_alone():
    """Of the order of keys it is not; the first value is sha256 of {"a":[1,2.5,null],"b":"\\u00e9"}
    (printf '%s' '{"a":[1,2.5,null],"b":"\\u00e9"}' | sha256sum)"""
    assert digest({"b": "\u00e9", "a": [1, 2.5, None]}) == digest(
        {"a": [1, 2.5, None], "b": "\u00e9"}
    )
    assert digest({"b": "\u00e9", "a": [1, 2.5, None]}) == (
        "45584828a616e524473fb887d415f828918fb9676efdaa57c062231771111499"
    )
    assert len({digest(x) for x in ([1, 2], [2, 1], [1, [2]], ["1", 2], {}, [], None, "")}) == 8


def test_a_file_digest_is_that_of_the_contents_in_order(tmp_path):
    """printf 'ab' | sha256sum"""
    for word in "ab":
        (tmp_path / word).write_text(word)
    assert file_digest(tmp_path / "a", tmp_path / "b") == (
        "fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603"
    )
    assert file_digest(tmp_path / "b", tmp_path / "a") != file_digest(
        tmp_path / "a", tmp_path / "b"
    )


def test_a_large_file_is_read_once_for_its_digest(tmp_path):
    """Under any name; and anew when it was written to: its time says so. Small ones are always."""
    for size, read_again in ((LARGE - 1, True), (LARGE, False)):
        file = tmp_path / "weights"
        file.touch()
        os.truncate(file, size)  # zeros that take no space
        zeros, time = file_digest(file), file.stat().st_mtime_ns
        file = file.rename(tmp_path / "renamed")
        with file.open("r+b") as f:
            f.write(b"1")
        os.utime(file, ns=(time, time))
        assert (file_digest(file) != zeros) == read_again
        os.utime(file, ns=(time, time + 1))
        assert file_digest(file) != zeros
        file.unlink()


def test_flatten_joins_keys_with_dots_and_keeps_lists():
    assert flatten({"a": {"b": 1, "c": {"d": [2, 3]}}, "e": None}) == {
        "a.b": 1, "a.c.d": [2, 3], "e": None,
    }  # fmt: skip
    assert flatten({}) == {}


# --- the folder of a run ---------------------------------------------------------------------


def test_iterations_are_those_that_are_done_in_their_order(tmp_path):
    folder = RunDir(tmp_path)
    assert folder.iterations() == []
    for t in (0, 2, 10):
        write_json(folder.iteration(t).done, {})
    folder.iteration(3).path.mkdir()
    (folder.iteration(3).path / ".done.json.tmp").write_text("{")
    assert folder.iterations() == [0, 2, 10]


def test_clearing_the_train_state_takes_what_a_kill_left_and_nothing_else(tmp_path):
    out = Iteration(tmp_path)
    out.clear_train_state()
    write_text(out.train_state, "x")
    (out.train_state.parent / ".state.safetensors.tmp").write_text("half")
    write_text(out.metrics, "kept")
    out.clear_train_state()
    assert names(tmp_path) == ["metrics.jsonl"]


CONFIG = {"name": "a", "optim": {"lr": [1e-5], "batch_size": 8}, "track": {"tags": []}}


def test_a_folder_is_claimed_once(tmp_path):
    folder = RunDir(tmp_path / "run")
    folder.claim(CONFIG, free=())
    first = folder.config.read_bytes()
    assert yaml.safe_load(first) == CONFIG
    folder.claim({**CONFIG, "track": {"tags": ["x"]}}, free=("track.tags",))
    assert folder.config.read_bytes() == first  # written once


@pytest.mark.parametrize(
    "other, message",
    [
        ({"optim": {"lr": [1e-5], "batch_size": 16}}, r"optim.batch_size \(there 8, here 16\)"),
        ({"optim": {"lr": [1e-4], "batch_size": 8}}, r"optim.lr \(there \[1e-05\], here \[0.0001"),
        ({"new": 1}, r"new \(there 'absent', here 1\)"),
        ({"name": None}, r"name \(there 'a', here None\)"),
    ],
)
def test_another_configuration_is_refused_with_both_values(tmp_path, other, message):
    RunDir(tmp_path).claim(CONFIG, free=())
    with pytest.raises(ValueError, match=message) as error:
        RunDir(tmp_path).claim(CONFIG | other, free=("track.tags",))
    assert "name=..." in str(error.value) and str(error.value).count("(there") == 1


# --- owner -----------------------------------------------------------------------------------

HOLD = (
    "import signal, sys; from pathlib import Path; from tspin.tools.files import owner\n"
    "with owner(Path(sys.argv[1])): print('held', flush=True); signal.pause()"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path."""
    environment = os.environ | {"PYTHONPATH": str(Path(artifacts.__file__).parents[2])}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.process
def test_a_folder_in_use_is_refused_at_once_and_free_when_its_owner_dies(tmp_path, holder):
    with pytest.raises(ValueError, match=f"{tmp_path} is in use by another process"):
        with owner(tmp_path):
            pass
    assert holder.poll() is None  # it holds it still
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with owner(tmp_path):
        pass
    with owner(tmp_path):  # and let go of on the way out
        pass


def _append(folder: Path) -> None:
    for _ in range(20):
        with owner(folder, wait=True):
            (folder / "inside").touch(exist_ok=False)  # fails where another is inside too
            text = (folder / "log").read_text()
            (folder / "log").write_text(text + "x")
            (folder / "inside").unlink()


def test_those_who_wait_come_one_after_the_other(tmp_path):
    (tmp_path / "log").touch()
    processes = [
        multiprocessing.get_context("fork").Process(target=_append, args=(tmp_path,))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "log").read_text() == "x" * 80


def test_a_file_system_without_flock_is_refused(tmp_path, monkeypatch):
    """filelock would take a file instead, which outlives an owner that is killed."""
    import fcntl

    def missing(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.raises(OSError, match="this file system has no flock"), owner(tmp_path):
        pytest.fail("held")


def test_a_folder_is_free_again_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), owner(tmp_path):
        raise RuntimeError
    with owner(tmp_path):
        pass
