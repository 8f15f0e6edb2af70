"""The pairs of an iteration as a data set: triplets, preferences."""

import shutil

import datasets
import pyarrow
import pytest
from support.tiny import micro_tokenizer

from tspin.data import annotated
from tspin.data.tokens import Renderer
from tspin.export.opening import Source
from tspin.export.pairs import Joined, _messages, _plain
from tspin.runs.artifacts import PROMPTS, RunDir
from tspin.runs.point import stored
from tspin.tools.parquet import read_rows, write_rows


def load(folder, config, split="train"):
    cache = str(folder.parent / "cache")
    return datasets.load_dataset(str(folder), config, split=split, cache_dir=cache).to_list()


def test_triplets_are_those_that_were_trained_on(run, pairs):
    rows = {
        row["id"]: row for split in ("train", "heldout") for row in load(pairs, "triplets", split)
    }
    samples = run.iteration(1).synthetic.ids()
    for prompt in read_rows(run.prompts):
        row = rows[prompt["id"]]
        assert row["system"] == ("Be brief." if prompt["prompt"] == "Hi" else None)
        assert row["annotated"] == prompt["annotated"].strip()
        assert row["prompt_ids"] == prompt["prompt_ids"]
        assert row["annotated_ids"] == prompt["annotated_ids"]
        assert row["synthetic_ids"] == list(samples[prompt["id"]])


def test_preferences_are_the_texts_of_the_run(run, pairs):
    both = zip(load(pairs, "preference"), load(pairs, "triplets"), strict=True)
    for two, three in both:
        system = "Be brief.\n\n" if three["system"] else ""
        prompt = f"{system}### Instruction: {three['prompt']}\n\n### Response: "
        assert two == {
            "prompt": prompt,
            "chosen": three["annotated"],
            "rejected": three["synthetic"],
        }


ROW = {
    "system": "s", "history": [["a", "b"]], "prompt": "x", "annotated": "y", "synthetic": "z"
}  # fmt: skip


def test_a_chat_runs_preferences_are_messages():
    roles = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "x")]
    assert _messages(ROW) == {
        "prompt": [{"role": role, "content": content} for role, content in roles],
        "chosen": [{"role": "assistant", "content": "y"}],
        "rejected": [{"role": "assistant", "content": "z"}],
    }
    assert len(_messages(ROW | {"system": None, "history": None})["prompt"]) == 1


def test_earlier_rounds_as_plain_text_have_the_form_of_the_template():
    assert _plain(ROW, Renderer(micro_tokenizer(), "alpaca"))["prompt"] == (
        "s\n\n### Instruction: a\n\n### Response: b\n\n### Instruction: x\n\n### Response:"
    )


def test_our_reader_takes_them_back(run, pairs):
    file = pairs / "triplets" / "train-00000-of-00001.parquet"
    triplets = {
        (pair.system, pair.prompt, pair.annotated) for pair in annotated.read_pairs(str(file)).pairs
    }
    cfg = stored(run).run
    assert triplets == {
        (pair.system, pair.prompt, pair.annotated.strip())
        for pair in annotated.load(cfg.data).train
    }


def test_a_run_that_kept_no_system_messages_reads_them_from_its_source(run, tmp_path):
    """As version 0.1.0 left them; a source that is another one would be another prompt."""
    cfg = stored(run).run
    renderer = Renderer(micro_tokenizer(), cfg.model.template)
    older = RunDir(shutil.copytree(run.path, tmp_path / "older", symlinks=True))
    kept = pyarrow.schema([f for f in PROMPTS if f.name not in ("system", "history")])
    rows = [{f.name: row[f.name] for f in kept} for row in read_rows(run.prompts)]
    write_rows(older.prompts, rows, kept)
    file = run.path.parent.parent / "pairs.jsonl"
    before = file.read_text()

    def systems(folder):
        joined = Joined(Source(cfg, folder, run.iteration(1)), renderer)
        return {
            row["id"]: row["system"] for part in ("train", "heldout") for row in joined.rows(part)
        }

    assert systems(older) == systems(run) and "Be brief." in systems(run).values()
    file.write_text(before.replace("Be brief.", "Be long."))
    try:
        with pytest.raises(ValueError, match="has a system message"):
            systems(older)
        assert "Be brief." in systems(run).values()
    finally:
        file.write_text(before)
