"""Before a run begins: what a user gave is looked at while nothing is there yet."""

import pytest
from support.model_folders import configured, copied, model_folder, rewritten
from support.tiny import play

from tspin import micro


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("preflight") / "model")


def begin(root, folder, *overrides, loss="tspin"):
    model = ("model=custom", f"model.path={folder}", "model.template=none", "data=micro",
             "decoding.max_new_tokens=4", "selfplay.iterations=1", "data.size=8",
             "data.heldout=2")  # fmt: skip
    return play(root, loss, *model, *overrides, name="run")


def test_a_model_that_cannot_be_trained_leaves_no_folder(whole, tmp_path):
    folder = configured(copied(whole, tmp_path / "model"), max_position_embeddings=64)
    facts = {"quant_method": "gptq", "bits": 4}
    configured(folder, quantization_config=facts)
    with pytest.raises(ValueError, match="quantised: gptq"):
        begin(tmp_path / "runs", folder)
    assert not (tmp_path / "runs").exists()


def test_a_model_given_as_data_and_data_given_as_a_model(whole, tmp_path):
    with pytest.raises(ValueError, match=f"data.path={whole} holds a model, which is for model.p"):
        begin(tmp_path / "runs", whole, "data=file", f"data.path={whole}")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="looks like data, which is for data.path"):
        begin(tmp_path / "runs", tmp_path / "rows")
    part = copied(whole, tmp_path / "part")
    (part / "config.json").unlink()
    with pytest.raises(ValueError, match="part holds a model, which is for model.path"):
        begin(tmp_path / "runs", whole, "data=file", f"data.path={part}")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "readme.md").write_text("None of it is data.")
    with pytest.raises(ValueError, match="other is a folder without data; use a .jsonl, "):
        begin(tmp_path / "runs", whole, "data=file", f"data.path={tmp_path / 'other'}")
    assert not (tmp_path / "runs").exists()


def test_a_model_without_a_tokenizer_or_a_configuration_leaves_no_folder(whole, tmp_path):
    for name, message in (("config.json", "holds no config.json"), ("tokenizer", "no tokenizer")):
        folder = copied(whole, tmp_path / name)
        for file in folder.glob(f"{name}*"):
            file.unlink()
        with pytest.raises(ValueError, match=message):
            begin(tmp_path / "runs", folder)
    assert not (tmp_path / "runs").exists()


@pytest.mark.runs
def test_a_tensor_that_is_missing_ends_it_before_anything_is_sampled(whole, tmp_path):
    folder = copied(whole, tmp_path / "model")
    name = "model.layers.1.mlp.down_proj.weight"
    rewritten(folder / "model.safetensors", lambda w: w.pop(name))
    with pytest.raises(ValueError, match=f"{folder} does not hold the model.*lacks {name}"):
        begin(tmp_path / "runs", folder)
    assert not list((tmp_path / "runs").rglob("*.parquet"))


@pytest.mark.runs
@pytest.mark.parametrize("loss", ["tspin", "sft"])  # that samples first, that scores first
def test_a_base_that_overflows_is_named(loss, whole, tmp_path):
    folder = copied(whole, tmp_path / "model")
    rewritten(folder / "model.safetensors", lambda w: w["model.norm.weight"].fill_(3e38))
    with pytest.raises(ValueError, match=f"^{folder}: .* are not finite .*: look at its weights"):
        begin(tmp_path / "runs", folder, loss=loss)


@pytest.mark.runs
def test_a_custom_model_has_its_own_length_and_keeps_it_when_it_goes_on(whole, tmp_path):
    folder = configured(copied(whole, tmp_path / "model"), max_position_embeddings=96)
    run, rows = begin(tmp_path / "runs", folder, loss="sft")
    stored = run.config.read_text()
    assert "  max_length: 96\n" in stored
    again, same = begin(tmp_path / "runs", folder, loss="sft")
    assert (again.config.read_text(), same) == (stored, rows)
    with pytest.raises(ValueError, match="model.max_length"):
        begin(tmp_path / "runs", folder, "model.max_length=64", loss="sft")


def test_the_embedded_models_pass_without_a_word(caplog):
    from dataclasses import replace

    from support.tiny import compose

    from tspin.policy import inspection

    run = compose("compute.device=cpu")
    for which in ("warm", "base"):
        model = replace(run.model, path=f"micro:{which}")
        inspection.check(micro.folder(which), model, run.compute)
    assert not [record for record in caplog.records if record.name == "tspin"]
