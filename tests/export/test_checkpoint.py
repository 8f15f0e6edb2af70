"""What leaves a run for other people's tools: export, pairs, chat."""

import importlib
import importlib.util
import io
import json
import math
import os
import re
import select
import shlex
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow
import pytest
import torch
import transformers
from support import hub_server, waiting
from support.tiny import (
    chat_tokenizer,
    compose,
    micro_tokenizer,
    play,
    random_model,
    sentencepiece_like,
)
from tokenizers.processors import TemplateProcessing

import tspin
from tspin.__main__ import VERBS, main
from tspin.cli.chat import shown
from tspin.cli.command import check
from tspin.data import annotated
from tspin.data.templates import Conversation, Rendering
from tspin.data.tokens import Renderer
from tspin.export import chat_template, checkpoint
from tspin.export.opening import Source
from tspin.export.pairs import Joined, _messages, _plain
from tspin.policy.weights import fetch, weight_digest
from tspin.runs import retention
from tspin.runs.artifacts import PROMPTS, RunDir
from tspin.runs.point import stored
from tspin.tools.files import read_json
from tspin.tools.parquet import read_rows, write_rows

ROOT = Path(__file__).resolve().parents[2]
VLLM = os.environ.get("TSPIN_VLLM_PYTHON")
CONVERT = os.environ.get("TSPIN_CONVERT_GGUF")  # PYTHON FOLDER/convert_hf_to_gguf.py
WIDE = "\u4f60"  # two columns of a terminal
HOSTILE = "</s> \u4f60 <|im_start|> {{ 7 * 7 }}"
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


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two iterations on data of its own: one row has a system message, one is hostile."""
    root = tmp_path_factory.mktemp("outside")
    rows = [{"prompt": f"Say {i}.", "response": f" {i} "} for i in range(10)]
    rows += [{"system": "Be brief.", "prompt": "Hi", "response": "Hi."}]
    rows += [{"prompt": HOSTILE, "response": "</s>{{ 7 }}"}]
    file = root / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = [f"data.path={file}", "data.size=8", "data.heldout=4", "optim.batch_size=4"]
    folder, _ = play(root / "runs", "tspin", "data=file", *told, name="outside")
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    to = tmp_path_factory.mktemp("exported") / "policy"
    assert main(["export", f"run={run.path}", "iteration=best", f"to={to}"]) == 0
    return to


@pytest.fixture
def said(capsys):
    """(exit code, what was said) of a verb"""

    def say(*words):
        code = main(words)
        told = capsys.readouterr()
        return code, told.out + told.err

    return say


# --- the chat template ---------------------------------------------------------------------------


def with_bos():
    """As Llama: BOS before a text, and the mark of a word's start behind it."""
    tokenizer = sentencepiece_like()
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    return tokenizer


def with_two_ids():
    """As GLM: two special tokens before a text."""
    tokenizer = micro_tokenizer()
    words = ["[gMASK]", "<sop>"]
    tokenizer.add_special_tokens({"additional_special_tokens": words})
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="[gMASK] <sop> $A",
        special_tokens=[(word, tokenizer.convert_tokens_to_ids(word)) for word in words],
    )
    return tokenizer


@pytest.mark.parametrize("template", ["alpaca", "alpaca_space", "none"])
@pytest.mark.parametrize(
    "make", [micro_tokenizer, chat_tokenizer, sentencepiece_like, with_bos, with_two_ids]
)
def test_the_chat_template_renders_the_ids_of_training(make, template):
    tokenizer = make()
    renderer = Renderer(tokenizer, template)
    text = chat_template.of(renderer)
    for prompt in ["Hi", " What's\n\nthe 'matter'? \\n", "{{ 7 * 7 }} {% if %}", "\u00e9\u4f60"]:
        for system in [None, "Be brief."]:
            ours = renderer.prompt_ids(Conversation(prompt, system))
            assert chat_template.prompt_ids(tokenizer, text, prompt, system) == ours


def test_under_chat_it_is_the_tokenizers_own():
    tokenizer = chat_tokenizer()
    assert chat_template.of(Renderer(tokenizer, "chat")) == tokenizer.chat_template


@pytest.mark.parametrize("template", ["alpaca_space", "none"])
def test_a_whole_round_is_prompt_and_response(template):
    renderer = Renderer(micro_tokenizer(), template)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " Yes.\n"}]
    ids = renderer.tokenizer.apply_chat_template(
        messages, chat_template=chat_template.of(renderer), return_dict=False
    )
    assert ids == renderer.prompt_ids(Conversation("Hi")) + renderer.response_ids("Yes.")


def test_the_card_says_what_the_template_was_given():
    """Arguments, the day, and where its generation prompt is not what the run conditioned on."""
    tokenizer = with_two_ids()
    tokenizer.chat_template = (
        "[gMASK]<sop>{{ strftime_now('%Y') }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n"
        "{% endfor %}{% if add_generation_prompt %}assistant: {% if think %}<think>{% endif %}"
        "{% endif %}"
    )
    how = Rendering("chat", {"think": True}, day=date(2026, 2, 3))
    renderer = Renderer(tokenizer, how)
    use = checkpoint._use(renderer, messages=True)
    assert '`{"think": true}`' in use and "2026-02-03" in use and '`"<think>"`' in use
    arguments = shlex.split(checkpoint._evaluation(renderer, messages=True))
    assert arguments[0] == "--model_args" and arguments[2:] == ["--apply_chat_template"]
    assert json.loads(arguments[1]) == {
        "pretrained": "FOLDER", "add_bos_token": False, "chat_template_args": {"think": True}
    }  # fmt: skip
    plain = Renderer(micro_tokenizer(), "alpaca")
    assert "have the form `alpaca`" in checkpoint._use(plain, messages=False)
    assert checkpoint._evaluation(plain, messages=False) == "--model_args pretrained=FOLDER"


# --- export --------------------------------------------------------------------------------------


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
    rows = [row for row in read_rows(run.prompts) if row["prompt"] != HOSTILE]
    for row in rows:
        system = "Be brief." if row["prompt"] == "Hi" else None
        ids = chat_template.prompt_ids(tokenizer, None, row["prompt"], system)
        assert ids == row["prompt_ids"]


def test_generation_is_that_of_the_run(exported):
    found = read_json(exported / "generation_config.json")
    del found["transformers_version"]
    assert found == {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "eos_token_id": [1],
        "pad_token_id": 0,
    }


def test_the_card_is_read_back_by_the_hubs_client(run, exported):
    card = huggingface_hub.ModelCard.load(exported / "README.md")
    assert card.data.library_name == "transformers"
    (perplexity,) = card.data.eval_results
    t, metric, value = retention.best([run.iteration(t) for t in run.iterations()])
    assert (perplexity.metric_type, perplexity.metric_value) == (metric, value)
    assert huggingface_hub.ModelCard(card.content).data.to_dict() == card.data.to_dict()
    assert read_json(run.data)["digest"] in card.text and f"tspin {tspin.__version__}," in card.text
    assert str(run.path.parent) not in card.content  # nothing of this machine


@pytest.mark.slow
def test_transformers_pipeline(exported):
    pipe = transformers.pipeline("text-generation", str(exported), device="cpu")
    (answer,) = pipe([{"role": "user", "content": "Say 1."}], do_sample=False)
    *_, said = answer["generated_text"]
    assert said["role"] == "assistant" and isinstance(said["content"], str)


@pytest.mark.process
@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="without lm-eval")
def test_the_command_line_of_lm_eval(exported, tmp_path):
    (tmp_path / "sums.jsonl").write_text('{"question": "1 + 0 =", "answer": 0}\n')
    (tmp_path / "sums.yaml").write_text(TASK.replace("DATA", str(tmp_path / "sums.jsonl")))
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args"]
    command += [
        f"pretrained={exported}",
        "--device",
        "cpu",
        "--apply_chat_template",
        "--tasks",
        "sums",
    ]
    command += ["--include_path", str(tmp_path)]
    env = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "|sums" in done.stdout and "exact_match" in done.stdout
    assert "max_new_tokens" not in done.stderr  # the length is the task's


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
    told = [f"model.path={tmp_path / 'policy'}", "model.template=chat", "data=micro", "data.size=8"]
    told += ["decoding.max_new_tokens=8", "model.max_length=128", "selfplay.iterations=1"]
    play(tmp_path, "sft", "model=custom", *told, name="small")
    made = tmp_path / "made"
    assert main(["export", f"run={tmp_path / 'small'}", f"to={made}"]) == 0
    command = [*CONVERT.split(), str(made), "--outfile", str(tmp_path / "x.gguf")]
    done = subprocess.run([*command, "--outtype", "f32"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]

    def read(kind, **where):
        return kind.from_pretrained(**where)

    there, back = {"pretrained_model_name_or_path": made}, {"gguf_file": "x.gguf"}
    back["pretrained_model_name_or_path"] = tmp_path
    ours, theirs = (
        read(transformers.AutoModelForCausalLM, dtype=torch.float32, **where).state_dict()
        for where in (there, back)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ids = [
        chat_template.prompt_ids(read(transformers.AutoTokenizer, **where), None, "1 + 1?\n\u4f60")
        for where in (there, back)
    ]
    assert ids[0] == ids[1]


@pytest.fixture
def hub(monkeypatch):
    """The real client, and a server on this machine that keeps what it is sent."""
    with hub_server.serving() as (endpoint, repositories):
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
        monkeypatch.setenv("NO_PROXY", "*")
        yield endpoint, repositories


def test_the_hub_is_sent_what_a_folder_gets(run, exported, hub, said):
    endpoint, repositories = hub
    code, words = said("export", f"run={run.path}", "iteration=best", "to=hub:me/policy")
    assert code == 0 and f"-> {endpoint}/me/policy\n" in words
    ((kind, name), repository) = repositories.popitem()
    assert (kind, name, repository["private"]) == ("model", "me/policy", True)
    assert repository["files"] == {path.name: path.read_bytes() for path in exported.iterdir()}
    assert not [file for file in repository["files"].values() if hub_server.TOKEN.encode() in file]


def test_pairs_are_a_data_set_of_the_hub(run, hub, said):
    _, repositories = hub
    code, _ = said("pairs", f"run={run.path}", "iteration=1", "to=hub:me/pairs", "private=false")
    assert code == 0
    ((kind, name), repository) = repositories.popitem()
    assert (kind, name, repository["private"]) == ("dataset", "me/pairs", False)
    assert "preference/train-00000-of-00001.parquet" in repository["files"]


def test_a_hub_that_refuses_is_one_line_before_any_work(run, hub, monkeypatch, said):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    monkeypatch.setattr("tspin.export.checkpoint.export", None)  # not callable
    code, words = said("export", f"run={run.path}", "to=hub:me/policy")
    assert code == 1 and words.startswith("error: to=hub:me/policy: the hub did not take it (")
    assert "Invalid" in words and words.count("\n") == 1 and "hf_wrong" not in words


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["to=x"], "run= is missing"),
        (["run=RUN"], "to= is missing"),
        (["run=RUN", "to=x", "iteraton=1"], r"did you mean iteration="),
        (["run=RUN", "to=x", "iteration=7"], "use best, last or one of 0, 1"),
        (["run=RUN", "to=RUN"], "is there already"),
        (["run=RUN", "to=hub:x"], "write to=hub:OWNER/NAME"),
        (["run=RUN", "to=x", "dtype=int8"], "choices: bfloat16, float32, same"),
        (["run=nowhere", "to=x"], "run=nowhere is no run"),
    ],
)
def test_mistakes_are_one_line(run, said, words, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, told = said("export", *(word.replace("RUN", str(run.path)) for word in words))
    assert code == 1 and why in told and told.startswith("error: ") and told.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_removed_weights_are_named_with_the_way_out(run, said, tmp_path):
    from tspin.tools.files import write_json

    out = run.iteration(0)
    write_json(out.removed, {"keep": "last"})
    try:
        code, told = said("export", f"run={run.path}", "iteration=0", f"to={tmp_path / 'x'}")
    finally:
        out.removed.unlink()
    assert code == 1 and "removed by selfplay.keep=last" in told
    assert "weights are there of iteration 1" in told


@pytest.mark.parametrize("verb", VERBS.keys() - {"run", "report"})  # those have their own
def test_every_verbs_help_has_examples_of_it(verb, capsys):
    """Those of KEY=VALUE name options that there are; nothing is wider than a terminal."""
    assert main([verb, "--help"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"usage: python -m tspin {verb} ")
    examples = [line.split() for line in told.split("examples:\n")[1].splitlines()]
    assert examples and all(words[:4] == ["python", "-m", "tspin", verb] for words in examples)
    assert max(map(len, told.splitlines())) <= 100
    module = importlib.import_module(VERBS[verb].module)
    if hasattr(module, "parser"):
        for words in examples:
            module.parser().read([word for word in words[4:] if "=" in word])


VERB_ON_A_PAGE = r"(?:python -m tspin|[`(]tspin|^ *tspin) ([a-z]+)((?: +[^\s`#<|,)]+)*)"


def test_every_verb_on_a_page_is_said_right():
    """Verbs, and the options of those of KEY=VALUE; overrides are tested in test_main.py."""
    shown = []
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        shown += re.findall(VERB_ON_A_PAGE, text, re.M)
    assert {verb for verb, _ in shown} == set(VERBS)
    for verb, words in shown:
        module = importlib.import_module(VERBS[verb].module)
        if words and hasattr(module, "parser"):
            module.parser().read(words.split())
        elif verb == "plan":
            check([word for word in words.split() if "=" in word])


def test_the_version_has_one_owner(run, said):
    assert said("--version") == (0, f"tspin {tspin.__version__}\n")
    assert read_json(run.provenance)["launches"][0]["versions"]["tspin"] == tspin.__version__


# --- pairs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(run, tmp_path_factory):
    to = tmp_path_factory.mktemp("pairs") / "set"
    assert main(["pairs", f"run={run.path}", "iteration=1", f"to={to}"]) == 0
    return to


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
    there = {
        (pair.system, pair.prompt, pair.annotated) for pair in annotated.read_pairs(str(file)).pairs
    }
    cfg = stored(run).run
    assert there == {
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


def prepared_by_trl(rows, tokenizer, folder):
    """Prompt and chosen ids of each row, by TRL's own preparation."""
    from trl.trainer.dpo_trainer import DPOConfig, DPOTrainer

    trainer = DPOTrainer.__new__(DPOTrainer)
    trainer._tokenizer = tokenizer
    config = DPOConfig(output_dir=str(folder), report_to="none", bf16=False)
    found = trainer._prepare_dataset(datasets.Dataset.from_list(rows), tokenizer, config, "train")
    return [row["prompt_ids"] + row["chosen_ids"] for row in found]


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


# --- chat ----------------------------------------------------------------------------------------


def test_a_piped_talk_is_answered_line_by_line(run, said, monkeypatch):
    words = ["chat", f"run={run.path}", "greedy=true"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("Say 1.\n\nSay 2.\n/quit\nSay 3.\n"))
    code, told = said(*words)
    assert code == 0 and told.count("\n\n") == 2
    monkeypatch.setattr(sys, "stdin", io.StringIO("Say 1.\nSay 2.\n"))
    assert said(*words) == (0, told)


def test_two_policies_side_by_side(run, said, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Say 1.\n"))
    code, told = said("chat", f"run={run.path}", "iteration=1", "against=base")
    assert code == 0
    head, rule, *_ = told.split("\n")
    assert re.split(r"  +", head) == ["iteration 1", "initial policy"] and set(rule) == {"-"}


@pytest.mark.parametrize(("tokens", "length"), [("3", 3), ("0", None), ("64", None), ("x", None)])
def test_answers_of_another_length(run, said, monkeypatch, tokens, length):
    """The run's model.max_length is 64, and a prompt needs room."""
    asked_for = []

    def respond(policy, questions, how):
        asked_for.append(how.max_new_tokens)
        return [[policy.renderer.eos_id]]

    monkeypatch.setattr("tspin.sampling.native.respond", respond)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\n"))
    code, told = said("chat", f"run={run.path}", f"tokens={tokens}")
    assert asked_for == ([] if length is None else [length])
    assert code == 0 if length else told.startswith(f"error: tokens={tokens} is no whole number")


def test_columns_and_rows():
    two = {"a": "x y", "b": ""}
    assert shown(two, width=20) == "[a] x y\n[b] (nothing)\n\n"
    head, rule, *rows = shown({"a": "one\n\ntwo", "b": WIDE * 20}, width=63).splitlines()
    assert head.split() == ["a", "b"] and set(rule) == {"-"}
    left, right = zip(*((row[:28].strip(), row[28:].strip()) for row in rows if row), strict=True)
    assert left == ("one", "", "two")
    assert "".join(right) == WIDE * 20 and max(map(len, right)) * 2 <= 30


def test_no_answer_steers_the_terminal():
    text = shown({"a": "\x1b[2Jx\u202ey\r\x9b\ud800\tz\n\u4f60"}, width=80)
    assert text == "\ufffd[2Jx\ufffdy\ufffd\ufffd\ufffd\tz\n\u4f60\n\n"


@pytest.fixture(scope="module")
def talk(run):
    """A process that chats at a terminal of its own. -> what types and gives what was shown"""
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        words = ["-m", "tspin", "chat", f"run={run.path}", "greedy=true"]
        os.execvp(sys.executable, [sys.executable, *words])

    def until(ending):
        seen = b""
        while not seen.endswith(ending):
            assert select.select([terminal], [], [], 120)[0], seen  # seconds
            seen += os.read(terminal, 1024)
        return seen.decode(errors="replace").replace("\r", "")

    def type_in(keys, ending=b"> "):
        if b"\x03" in keys:  # Python sees a signal that comes before it waits at the next key alone
            waiting.until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "S")
        os.write(terminal, keys)
        return until(ending)

    greeting = until(b"> ")
    yield greeting, type_in
    os.write(terminal, b"\x15\x04")  # whatever a test has left in the line
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)


@pytest.mark.process
def test_at_a_terminal_it_says_whom_one_talks_to(talk):
    greeting, _ = talk
    assert "outside: iteration 1, greedy, at most 10 tokens. /quit ends it.\n" in greeting


@pytest.mark.process
def test_keys_at_a_terminal(talk):
    """Nothing for empty lines, Ctrl-C clears a line, bytes that are no text do no harm."""
    _, type_in = talk
    one = type_in(b"Say 1.\n").split("\n", 1)[1]
    assert one.endswith("\n\n> ")
    assert type_in(b"\n").strip() == ">" and type_in(b"   \n").strip() == ">"
    type_in(b"half", b"half")
    assert type_in(b"\x03").strip(" \n^C") == ">"
    assert type_in(b"Say 1.\n").split("\n", 1)[1] == one
    assert type_in(b"\xff" + WIDE.encode() + b"\n").endswith("\n\n> ")
    long = type_in(b"x" * 3000 + b"\n")
    assert re.search(r"\(of 30\d\d tokens of the prompt 54 are read: ", long)


def test_ctrl_c_stops_an_answer_and_not_the_talk(run, said, monkeypatch):
    lines = iter(["Say 1.", "Say 2."])

    def typed(_):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    def respond(policy, questions, how):
        if sum(1 for _ in lines) == 0:
            return [[policy.renderer.eos_id]]
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr("tspin.sampling.native.respond", respond)
    code, told = said("chat", f"run={run.path}")
    assert code == 0 and told.count("(stopped)") == 1


def test_a_response_that_was_cut_says_so(run, said, monkeypatch):
    ended = {"yes": [40, 1], "no": [40]}
    for what, ids in ended.items():
        monkeypatch.setattr("tspin.sampling.native.respond", lambda *_, ids=ids: [ids])
        monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\n"))
        _, told = said("chat", f"run={run.path}")
        assert told.endswith(" ...\n\n") == (what == "no")
