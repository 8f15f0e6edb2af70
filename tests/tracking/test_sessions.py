"""Which W&B run a launch writes into: never one whose records `wandb sync` would replace."""

import pytest

from tspin.runs.artifacts import RunDir
from tspin.tools.files import read_json, write_json
from tspin.tracking.sessions import begin


@pytest.mark.parametrize(
    ("modes", "ids", "whole"),
    [
        # the server continues an online run, from its beginning
        (["online", "online", "online"], ["", "", ""], [True, True, True]),
        # nothing continues an offline one
        (["offline", "offline", "offline"], ["", "-2", "-3"], [True, False, False]),
        (["offline", "online", "online"], ["", "-2", "-2"], [True, False, False]),
        (["online", "offline", "online"], ["", "-2", ""], [True, False, False]),
        (["online", "offline", "offline"], ["", "-2", "-3"], [True, False, False]),
        # what was not tracked is nowhere
        (["none", "online", "online"], ["", "", ""], [True, False, False]),
        (["none", "offline", "none", "offline"], ["", "", "", "-4"], [True, False, False, False]),
    ],
)
def test_no_id_is_written_into_twice_but_where_the_server_continues_it(tmp_path, modes, ids, whole):
    folder = RunDir(tmp_path)
    launches = [begin(folder, mode) for mode in modes]
    base = read_json(folder.tracking)["id"]
    assert launches == [(base + end, all_of_it) for end, all_of_it in zip(ids, whole, strict=True)]


@pytest.mark.parametrize(
    ("left", "mode", "launch"),
    [
        ("offline-run-20260101_000000-abc", "offline", ("abc-2", False)),
        ("offline-run-20260101_000000-abc", "online", ("abc-2", False)),
        ("run-20260101_000000-abc", "online", ("abc", True)),
        ("run-20260101_000000-abc", "offline", ("abc-2", False)),
        ("debug", "offline", ("abc", False)),
    ],
)
def test_a_run_of_a_version_that_kept_the_id_alone(tmp_path, left, mode, launch):
    folder = RunDir(tmp_path)
    write_json(folder.tracking, {"id": "abc"})
    (tmp_path / "wandb" / left).mkdir(parents=True)
    assert begin(folder, mode) == launch
