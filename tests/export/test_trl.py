"""The pairs in TRL: it makes the ids of the run, and trains a policy that a run begins with."""

import importlib
import importlib.util
import json
import math

import datasets
import pytest
import torch
import transformers
from support.tiny import play

from tspin.__main__ import main
from tspin.policy.weights import weight_digest
from tspin.tools.files import read_json
from tspin.tools.parquet import read_rows


def load(folder, config, split="train"):
    cache = str(folder.parent / "cache")
    return datasets.load_dataset(str(folder), config, split=split, cache_dir=cache).to_list()


def prepared_by_trl(rows, tokenizer, folder):
    """Prompt and chosen ids of each row, by TRL's own preparation."""
    from trl.trainer.dpo_trainer import DPOConfig, DPOTrainer

    trainer = DPOTrainer.__new__(DPOTrainer)
    trainer._tokenizer = tokenizer
    config = DPOConfig(output_dir=str(folder), report_to="none", bf16=False)
    prepared = trainer._prepare_dataset(
        datasets.Dataset.from_list(rows), tokenizer, config, "train"
    )
    return [row["prompt_ids"] + row["chosen_ids"] for row in prepared]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="without trl")
def test_trl_makes_the_ids_of_the_run(pairs, exported):
    """Under a template whose boundary no token crosses."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    rows = [row for row in load(pairs, "preference") if "</s>" not in str(row)]
    ours = [row for row in load(pairs, "triplets") if "</s>" not in str(row["prompt"])]
    ids = [row["prompt_ids"] + row["annotated_ids"] for row in ours]
    assert prepared_by_trl(rows, tokenizer, pairs.parent / "trl") == ids


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="without trl")
def test_trl_trains_on_them_and_a_run_begins_with_what_it_left(pairs, exported, tmp_path):
    """DPO's first loss is -log sigmoid(0); then the official SPIN code's rows on TRL's policy."""
    from trl import DPOConfig, DPOTrainer

    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    trainer = DPOTrainer(
        transformers.AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32),
        args=DPOConfig(
            output_dir=str(tmp_path / "trl"), max_steps=2, logging_steps=1, learning_rate=1e-3,
            report_to="none", save_strategy="no", use_cpu=True, bf16=False,
        ),
        train_dataset=datasets.Dataset.from_list(load(pairs, "preference")),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    first, second = (row["loss"] for row in trainer.state.log_history[:2])
    assert first == pytest.approx(math.log(2), abs=1e-4) and second != first
    trainer.save_model(str(tmp_path / "trl"))

    def chat(prompt, response):
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        return turns

    rows = [{"real": chat(f"Say {i}.", str(i)), "generated": chat(f"Say {i}.", "x")} for i in "123"]
    (tmp_path / "spin.json").write_text(json.dumps(rows))
    folder, _ = play(
        tmp_path / "runs",
        "spin",
        *("model=custom", f"model.path={tmp_path / 'trl'}", "model.template=chat"),
        *("model.max_length=128", "decoding.max_new_tokens=8"),
        *("data=file", f"data.path={tmp_path / 'spin.json'}", "data.size=2", "data.heldout=1"),
        "selfplay.iterations=1",
    )
    assert read_json(folder.initial)["weights"] == weight_digest(tmp_path / "trl")
    assert sorted(row["annotated"] for row in read_rows(folder.prompts)) == ["1", "2", "3"]

    to = tmp_path / "messages" / "set"
    assert main(["pairs", f"run={folder.path}", f"to={to}"]) == 0
    messages, rows = load(to, "preference"), load(to, "triplets")
    assert messages[0]["chosen"] == [{"role": "assistant", "content": rows[0]["annotated"]}]
    ids = [row["prompt_ids"] + row["annotated_ids"] for row in rows]
    assert prepared_by_trl(messages, tokenizer, tmp_path) == ids
