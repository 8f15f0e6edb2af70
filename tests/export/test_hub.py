"""Policies and pairs that are sent to a hub."""

import huggingface_hub
import pytest
from support import hub_server


@pytest.fixture
def hub(monkeypatch):
    """The real client, and a server on this machine that keeps what it is sent."""
    with hub_server.serving() as (endpoint, repositories):
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
        monkeypatch.setenv("NO_PROXY", "*")
        yield endpoint, repositories


def test_the_hub_is_sent_what_a_folder_gets(run, exported, hub, call):
    endpoint, repositories = hub
    code, words = call("export", f"run={run.path}", "iteration=best", "to=hub:me/policy")
    assert code == 0 and f"-> {endpoint}/me/policy\n" in words
    ((kind, name), repository) = repositories.popitem()
    assert (kind, name, repository["private"]) == ("model", "me/policy", True)
    assert repository["files"] == {path.name: path.read_bytes() for path in exported.iterdir()}
    assert not [file for file in repository["files"].values() if hub_server.TOKEN.encode() in file]


def test_pairs_are_a_data_set_of_the_hub(run, hub, call):
    _, repositories = hub
    code, _ = call("pairs", f"run={run.path}", "iteration=1", "to=hub:me/pairs", "private=false")
    assert code == 0
    ((kind, name), repository) = repositories.popitem()
    assert (kind, name, repository["private"]) == ("dataset", "me/pairs", False)
    assert "preference/train-00000-of-00001.parquet" in repository["files"]


def test_a_hub_that_refuses_is_one_line_before_any_work(run, hub, monkeypatch, call):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    monkeypatch.setattr("tspin.export.checkpoint.export", None)  # not callable
    code, words = call("export", f"run={run.path}", "to=hub:me/policy")
    assert code == 1 and words.startswith("error: to=hub:me/policy: the hub did not take it (")
    assert "Invalid" in words and words.count("\n") == 1 and "hf_wrong" not in words
