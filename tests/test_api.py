"""The examples of docs/api.md, run as they stand there."""

import copy
import importlib.util
import re
from pathlib import Path

import pytest
import torch
import transformers
from tiny import SMALL, compose, micro_tokenizer, random_model

from tspin.config import dump

DOC = Path(__file__).resolve().parents[1] / "docs" / "api.md"
ROWS = [("Say 1.", "one", "two", "three"), ("Say 2.", "two", "x", "yy")]


def example(name, **given):
    """The names that the example leaves behind."""
    (code,) = re.findall(rf"^```python {name}\n(.*?)^```", DOC.read_text(), re.S | re.M)
    exec(compile(code, f"docs/api.md, {name}", "exec"), given)
    return given


def test_a_loop_of_ones_own_learns():
    model = random_model(dtype=torch.float32)
    found = example("loop", model=model, tokenizer=micro_tokenizer(), triplets=ROWS)
    first, _, last = found["history"]
    assert last < first


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="without trl")
def test_trls_trainer_takes_the_loss(tmp_path):
    """Its first loss is -log sigmoid(log pi(y) - log pi(y')) of the same rows, by hand."""
    import datasets
    from trl import DPOConfig

    random_model(dtype=torch.float32).save_pretrained(tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = micro_tokenizer()
    pairs = [{"prompt": p, "chosen": y, "rejected": s} for p, y, s, _ in ROWS]
    before = copy.deepcopy(model)
    arguments = DPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        max_steps=1,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
    )
    found = example(
        "trl",
        model=model,
        tokenizer=tokenizer,
        arguments=arguments,
        pairs=datasets.Dataset.from_list(pairs),
    )

    def logp(prompt, response):
        first, ids = (tokenizer(text)["input_ids"] for text in (prompt, prompt + response))
        ids += [tokenizer.eos_token_id]
        with torch.no_grad():
            scores = before(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(scores[i - 1, ids[i]] for i in range(len(first), len(ids)))

    losses = [-torch.nn.functional.logsigmoid(logp(p, y) - logp(p, s)) for p, y, s, _ in ROWS]
    logged = found["trainer"].state.log_history[0]["loss"]
    assert logged == pytest.approx(torch.stack(losses).mean().item(), rel=1e-3)


def test_a_run_from_plain_values(tmp_path):
    small = [*SMALL, "data.size=8", "data.heldout=0", "selfplay.iterations=1"]
    cfg = compose("loss=sft", "track.diagnostics=false", f"runs_dir={tmp_path}", *small)
    found = example("run", tree=dump(cfg))
    assert [row["iteration"] for row in found["rows"]] == [0]
