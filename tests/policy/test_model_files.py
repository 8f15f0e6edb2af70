"""Files of a model that are missing, cut short or something else: one line with the file."""

import pytest
from support.model_folders import POINTER, configured, copied, cut, model_folder

from tspin.policy import model_files
from tspin.policy.weights import check_reachable, fetch
from tspin.tools import hub


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("sharded") / "model", max_shard_size="30KB")


def test_a_whole_folder_passes_in_shards_and_in_one(sharded, tmp_path):
    model_files.check(sharded)
    assert len(model_files.weight_files(sharded)) > 1
    whole = model_folder(tmp_path / "whole")
    model_files.check(whole)
    assert model_files.weight_files(whole) == [whole / "model.safetensors"]


SHARD = "model-00002-of-"
FAULTS = {
    "pointer": (SHARD, lambda file: file.write_text(POINTER), "Git LFS.*git lfs pull"),
    "cut": (SHARD, cut, "is no whole safetensors file"),
    "empty": (SHARD, lambda file: file.write_bytes(b""), "is no whole safetensors file"),
    "shard gone": (SHARD, lambda file: file.unlink(), f"lacks {SHARD}.*index.json names"),
    "index gone": ("model.safetensors.index", lambda file: file.unlink(), "holds model-00001"),
    "index cut": ("model.safetensors.index", cut, "index.json is no JSON"),
    "config gone": ("config.json", lambda file: file.unlink(), "holds no config.json"),
    "config cut": ("config.json", cut, "config.json is no JSON"),
    "config pointer": ("config.json", lambda file: file.write_text(POINTER), "config.json is a p"),
    "config list": ("config.json", lambda file: file.write_text("[]"), "config.json is list"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_with_the_file(fault, sharded, tmp_path):
    name, spoil, message = FAULTS[fault]
    folder = copied(sharded, tmp_path / "model")
    (file,) = folder.glob(f"{name}*")
    spoil(file)
    with pytest.raises(ValueError, match=message) as error:
        model_files.check(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_what_a_folder_holds_instead_is_said(tmp_path):
    model_folder(tmp_path / "run" / "checkpoint")
    with pytest.raises(ValueError, match=f"no model's folder; model.path={tmp_path}/run/checkpoin"):
        model_files.config(tmp_path / "run")
    data = tmp_path / "data"
    data.mkdir()
    (data / "rows.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="holds no config.json and looks like data.*data.path"):
        model_files.config(data)
    with pytest.raises(ValueError, match="is a file and no .gguf"):
        model_files.config(data / "rows.jsonl")
    assert model_files.has_part(tmp_path / "run" / "checkpoint")
    assert not model_files.has_part(data)


def test_pickles_are_named_with_the_way_out(tmp_path):
    folder = model_folder(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no \*.safetensors.*\(but pytorch_model.bin\).*save_pr"):
        model_files.check(folder)


@pytest.mark.parametrize(
    ("content", "message"), [(POINTER, "Git LFS"), ("<html>", "does not begin as a GGUF file")]
)
def test_a_gguf_file_that_is_none(content, message, tmp_path):
    from support.tiny import compose

    file = tmp_path / "weights.gguf"
    file.write_text(content)
    model = compose("model=custom", f"model.path={file}", "data=micro").model
    assert model.max_length == 2048  # known only once it is converted
    for begin in (check_reachable, fetch):
        with pytest.raises(ValueError, match=message):
            begin(model)


def test_the_length_of_a_model_is_that_of_its_configuration(tmp_path, monkeypatch):
    folder = configured(model_folder(tmp_path / "model"), max_position_embeddings=96)
    assert model_files.own_length(str(folder), None) == 96
    assert model_files.own_length(str(tmp_path), None) is None
    assert model_files.own_length("micro:warm", None) is None
    monkeypatch.setattr(hub, "model_config", lambda name, revision: {"n_positions": 1024})
    assert model_files.own_length("owner/name", None) == 1024


def test_a_snapshot_in_part_is_not_taken_for_the_model(sharded, tmp_path, monkeypatch):
    """The hub's cache holds what was downloaded before a connection broke."""
    from support.tiny import compose

    from tspin.policy import weights

    folder = copied(sharded, tmp_path / "snapshot")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    model = compose("model=zephyr").model
    assert weights.on_disk(model) == folder
    next(folder.glob(f"{SHARD}*")).unlink()
    assert weights.on_disk(model) is None
