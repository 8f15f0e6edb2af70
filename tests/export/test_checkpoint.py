"""An exported policy in other people's tools: transformers, lm-eval, vLLM, llama.cpp."""

import importlib
import importlib.util
import os
import subprocess

import pytest
import torch
import transformers
from support.tiny import compose, play, random_model

from tspin.__main__ import main
from tspin.export import chat_template
from tspin.policy.weights import fetch
from tspin.runs import retention
from tspin.tools.files import read_json
from tspin.tools.parquet import read_rows

VLLM = os.environ.get("TSPIN_VLLM_PYTHON")
CONVERT = os.environ.get("TSPIN_CONVERT_GGUF")  # PYTHON FOLDER/convert_hf_to_gguf.py
TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
generation_kwargs: {max_gen_toks: 5, until: ["END"]}
"""
# python -m lm_eval without its index of more than 10,000 tasks, which takes longer than the rest.
COMMAND_LINE = """
from functools import partial
import lm_eval.tasks
from lm_eval.__main__ import cli_evaluate
lm_eval.tasks.TaskManager = partial(lm_eval.tasks.TaskManager, include_defaults=False)
cli_evaluate()
"""


@pytest.mark.slow
def test_the_exported_policy_is_the_best_one(run, exported):
    t, *_ = retention.best([run.iteration(t) for t in run.iterations()])
    ours, theirs = (
        transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for folder in (run.iteration(t).checkpoint, exported)
    )
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_the_exported_tokenizer_conditions_on_the_ids_of_training(run, exported):
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    rows = [row for row in read_rows(run.prompts) if "</s>" not in row["prompt"]]
    for row in rows:
        system = "Be brief." if row["prompt"] == "Hi" else None
        ids = chat_template.prompt_ids(tokenizer, None, row["prompt"], system)
        assert ids == row["prompt_ids"]


def test_generation_is_that_of_the_run(exported):
    options = read_json(exported / "generation_config.json")
    del options["transformers_version"]
    assert options == {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "eos_token_id": [1],
        "pad_token_id": 0,
    }


@pytest.mark.slow
def test_transformers_pipeline(exported):
    pipe = transformers.pipeline("text-generation", str(exported), device="cpu")
    (answer,) = pipe([{"role": "user", "content": "Say 1."}], do_sample=False)
    *_, reply = answer["generated_text"]
    assert reply["role"] == "assistant" and isinstance(reply["content"], str)


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="without lm-eval")
def test_the_command_line_of_lm_eval(exported, forker, tmp_path):
    (tmp_path / "sums.jsonl").write_text('{"question": "1 + 0 =", "answer": 0}\n')
    (tmp_path / "sums.yaml").write_text(TASK.replace("DATA", str(tmp_path / "sums.jsonl")))
    words = ["--model", "hf", "--model_args", f"pretrained={exported}", "--device", "cpu"]
    words += ["--apply_chat_template", "--tasks", "sums", "--include_path", str(tmp_path)]
    offline = {"HF_HOME": str(tmp_path), "HF_DATASETS_OFFLINE": "1"}
    done = forker.python("-c", COMMAND_LINE, *words, cwd=tmp_path, **offline)
    assert "|sums" in done.out and "exact_match" in done.out
    assert "max_new_tokens" not in done.err  # the length is the task's


@pytest.mark.process
@pytest.mark.skipif(VLLM is None, reason="TSPIN_VLLM_PYTHON names no interpreter with vLLM")
def test_vllm(exported):
    code = (
        "import sys, vllm\n"
        "if __name__ == '__main__':\n"
        "    llm = vllm.LLM(sys.argv[1], enforce_eager=True, max_model_len=64)\n"
        "    (out,) = llm.chat([{'role': 'user', 'content': 'Say 1.'}])\n"
        "    print('IDS', *out.prompt_token_ids)\n"
    )
    done = subprocess.run([VLLM, "-c", code, str(exported)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    ids = chat_template.prompt_ids(tokenizer, None, "Say 1.")
    assert f"IDS {' '.join(map(str, ids))}" in done.stdout


@pytest.mark.process
@pytest.mark.skipif(CONVERT is None, reason="TSPIN_CONVERT_GGUF names no convert_hf_to_gguf.py")
def test_llama_cpps_own_converter_takes_it(tmp_path):
    """Read back by transformers it is the same weights, and the same ids of a conversation.

    With SmolLM2's tokenizer, which the converter knows by its hash; the model is a small one.
    """
    smollm = fetch(compose("model=smollm2", "data=micro").model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm)
    tokenizer.save_pretrained(tmp_path / "policy")
    random_model(vocab_size=len(tokenizer), dtype=torch.float32).save_pretrained(
        tmp_path / "policy"
    )
    words = [
        f"model.path={tmp_path / 'policy'}",
        "model.template=chat",
        "data=micro",
        "data.size=8",
    ]
    words += ["decoding.max_new_tokens=8", "model.max_length=128", "selfplay.iterations=1"]
    play(tmp_path, "sft", "model=custom", *words, name="small")
    exported = tmp_path / "exported"
    assert main(["export", f"run={tmp_path / 'small'}", f"to={exported}"]) == 0
    command = [*CONVERT.split(), str(exported), "--outfile", str(tmp_path / "x.gguf")]
    done = subprocess.run([*command, "--outtype", "f32"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]

    def read(kind, **where):
        return kind.from_pretrained(**where)

    original, converted = {"pretrained_model_name_or_path": exported}, {"gguf_file": "x.gguf"}
    converted["pretrained_model_name_or_path"] = tmp_path
    ours, theirs = (
        read(transformers.AutoModelForCausalLM, dtype=torch.float32, **where).state_dict()
        for where in (original, converted)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ids = [
        chat_template.prompt_ids(read(transformers.AutoTokenizer, **where), None, "1 + 1?\n\u4f60")
        for where in (original, converted)
    ]
    assert ids[0] == ids[1]
