"""The examples of docs/api.md, run as they stand there."""

import copy
import importlib.util
import math
import re
from pathlib import Path

import pytest
import torch
import transformers
from support.tiny import SMALL, micro_tokenizer, random_model

from tspin.config.load import dump, load

DOC = Path(__file__).resolve().parents[2] / "docs" / "api.md"
ROLES = ("annotated", "synthetic", "proto")
TRIPLETS = [("Say 1.", "one", "two", "three"), ("Say 2.", "two", "x", "yy")]


def example(heading, **given):
    """The names that the example below a heading leaves behind."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", DOC.read_text(), re.S | re.M)
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.S | re.M)
    exec(compile(code, f"docs/api.md, {heading}", "exec"), given)
    return given


def test_an_objective_is_what_its_comment_says():
    """-log sigmoid(2) = 0.1269 and -log sigmoid(0) = 0.6931"""
    (value,) = example("An objective")["values"]
    by_hand = math.log(1 + math.exp(-2)) + 0.1 * math.log(2)
    assert value.item() == pytest.approx(by_hand) == pytest.approx(0.1962, abs=5e-5)


def test_a_loop_of_ones_own_learns():
    model = random_model(dtype=torch.float32)
    found = example(
        "A loop of your own", model=model, tokenizer=micro_tokenizer(), triplets=TRIPLETS
    )
    first, _, last = found["history"]
    assert last < first


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="without trl")
def test_trls_trainer_takes_the_loss(tmp_path):
    """Its first loss is l(c) + 0.1 l(h) of the same triplets, by hand, over two micro-batches."""
    import datasets

    random_model(dtype=torch.float32).save_pretrained(tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    before = copy.deepcopy(model)
    tokenizer = micro_tokenizer()

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    rows = [
        {"id": str(i), "prompt_ids": ids(prompt)}
        | {f"{role}_ids": ids(text) for role, text in zip(ROLES, responses, strict=True)}
        for i, (prompt, *responses) in enumerate(TRIPLETS)
    ]
    options = {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "max_steps": 2,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
    }
    found = example(
        "TRL's trainer",
        model=model,
        tokenizer=tokenizer,
        triplets=datasets.Dataset.from_list(rows),
        folder=str(tmp_path),
        options=options,
    )

    def logp(row, role):
        first, whole = row["prompt_ids"], row["prompt_ids"] + row[f"{role}_ids"]
        with torch.no_grad():
            scores = before(torch.tensor([whole])).logits[0].log_softmax(-1)
        return sum(scores[i - 1, whole[i]] for i in range(len(first), len(whole)))

    def loss(row):
        y, s, y0 = (logp(row, role) for role in ROLES)
        ell = torch.nn.functional.softplus
        return ell(s - y) + 0.1 * ell(y0 - s)

    first, second = (entry["loss"] for entry in found["trainer"].state.log_history[:2])
    assert first == pytest.approx(torch.stack([*map(loss, rows)]).mean().item(), rel=1e-3)
    assert second < first


@pytest.mark.runs
def test_a_run_from_typed_words(tmp_path):
    small = [*SMALL, "data.size=8", "data.heldout=0", "selfplay.iterations=1"]
    words = ["loss=sft", "track=none", "track.diagnostics=false", f"runs_dir={tmp_path}", *small]
    found = example("A whole run", words=words)
    assert list(found["table"]["iteration"]) == [0]
    assert load(dump(found["point"].run)) == found["point"].run
