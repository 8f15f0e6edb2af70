"""Prompts are prepared once: what is kept of a row, a template's date, what a template refuses."""

import json
from datetime import date

import pytest
from support.tiny import CHAT, chat_tokenizer, compose, micro_tokenizer

from tspin.cli.stored_run import StoredRun
from tspin.config.load import dump
from tspin.data import annotated
from tspin.data.templates import Rendering
from tspin.data.tokens import Renderer
from tspin.runs.artifacts import RunDir
from tspin.stages.prepare import prepare
from tspin.tools.files import read_json, write_json
from tspin.tools.parquet import each_row, read_rows

DATED = "{{ strftime_now('%d %b %Y') }}\n" + CHAT
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}"
ROWS = [
    {"prompt": "One", "response": " Two. \n"},
    {"prompt": "Three", "response": "Four.", "system": "Be brief."},
    {"prompt": "A <|end|> in a text", "response": "stays <|end|> text"},
]


def renderer(template, how="chat"):
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = template.replace("<s>", "<|start|>").replace("</s>", "<|end|>")
    return Renderer(tokenizer, how)


def prepared(tmp_path, renderer, *overrides, rows=ROWS, name="test"):
    """The rows of prompts.parquet, and the folder of the run."""
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = compose(
        *("data=file", f"data.path={data}", "data.heldout=0", "model.max_length=200"),
        *("model.template=chat", f"runs_dir={tmp_path}", *overrides, f"name={name}"),
    )
    folder = RunDir(run.folder)
    folder.path.mkdir(exist_ok=True)
    folder.claim(dump(run), free=())
    prepare(run, folder, renderer, annotated.load(run.data))
    return read_rows(folder.prompts), folder


def test_a_day_is_settled_once_for_all_runs_of_a_folder(tmp_path, monkeypatch):
    """The next day a point of the sweep, and `pairs` and `export`, see the same prompts."""
    first, folder = prepared(tmp_path, renderer(DATED), name="first")
    monkeypatch.setattr("tspin.data.chat.date", Tomorrow)
    later, _ = prepared(tmp_path, renderer(DATED), name="later")
    assert [row["prompt_ids"] for row in later] == [row["prompt_ids"] for row in first]
    again = renderer(DATED, StoredRun.open(str(folder.path)).rendering)
    text = again.tokenizer.decode(first[0]["prompt_ids"])
    assert text.startswith(date.today().strftime("%d %b %Y"))
    assert read_json(folder.data)["day"] == date.today().isoformat()


class Tomorrow(date):
    @classmethod
    def today(cls):
        return date.fromordinal(super().today().toordinal() + 1)


def test_a_run_whose_prompts_hold_no_date_leaves_none(tmp_path):
    _, folder = prepared(tmp_path, renderer(CHAT))
    assert "day" not in read_json(folder.data) and not (tmp_path / "day.json").exists()


@pytest.mark.slow
def test_a_day_that_is_settled_is_taken(tmp_path):
    write_json(tmp_path / "day.json", {"day": "2024-07-26"})
    rows, _ = prepared(tmp_path, renderer(DATED))
    assert all("26 Jul 2024" in renderer(DATED).tokenizer.decode(r["prompt_ids"]) for r in rows)


def test_what_is_kept_is_the_templates_own_rendering(tmp_path):
    made = renderer(CHAT)
    rows, _ = prepared(tmp_path, made, rows=ROWS[:2])
    for row, source in zip(sorted(rows, key=lambda row: row["prompt"]), ROWS[:2], strict=True):
        system = [{"role": "system", "content": source["system"]}] if "system" in source else []
        turns = [("user", row["prompt"]), ("assistant", row["annotated"])]
        messages = [*system, *({"role": r, "content": c} for r, c in turns)]
        text = made.tokenizer.apply_chat_template(messages, tokenize=False)
        ids = made.tokenizer(text, add_special_tokens=False)["input_ids"]
        ours = [*row["prompt_ids"], *row["annotated_ids"]]
        assert ids[: len(ours)] == ours


def test_a_row_that_the_template_refuses_is_named_or_left_out(tmp_path):
    made = renderer(NO_SYSTEM + CHAT)
    with pytest.raises(ValueError, match=r"row with 'Three': the chat template takes no system"):
        prepared(tmp_path, made)
    rows, folder = prepared(tmp_path, made, "data.skip_bad_rows=true", name="skips")
    assert len(rows) == 2 and read_json(folder.data)["num_skipped"] == 1
    assert "'Three'" in read_json(folder.data)["reasons"][0]
    merging = renderer(NO_SYSTEM + CHAT, Rendering("chat", system="merge"))
    assert len(prepared(tmp_path, merging, "data.system=merge", name="merges")[0]) == 3


def test_prompts_are_cut_and_counted(tmp_path):
    long = [*ROWS, {"prompt": " ".join(map(str, range(200))), "response": "Long."}]
    rows, folder = prepared(tmp_path, renderer(CHAT), rows=long)
    assert read_json(folder.data)["num_prompts_cut"] == 1
    (cut,) = (row for row in rows if row["annotated"] == "Long.")
    text = renderer(CHAT).tokenizer.decode(cut["prompt_ids"])
    assert text.startswith("<|start|>user\n") and text.endswith("199<|end|>\n<|start|>assistant\n")
    assert len(cut["prompt_ids"]) <= compose("model.max_length=200").max_prompt_length


def test_system_messages_and_earlier_rounds_are_kept_and_undesirable_rows_counted(tmp_path):
    turns = [("system", "s"), ("user", "x"), ("assistant", "y"), ("user", "z"), ("assistant", "w")]
    rows = [
        {"messages": [{"role": role, "content": content} for role, content in turns]},
        {"prompt": "p", "response": "r", "label": False},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = compose("data=file", f"data.path={file}", "data.heldout=0", "data.rounds=all")
    folder = RunDir(tmp_path)
    prepare(run, folder, Renderer(micro_tokenizer(), "alpaca"), annotated.load(run.data))
    kept = [(row["system"], row["history"], row["prompt"]) for row in each_row(folder.prompts)]
    assert sorted(kept, key=str) == [("s", None, "x"), ("s", [["x", "y"]], "z")]
    facts = read_json(folder.data)
    assert (facts["num_train"], facts["num_undesirable"], facts["num_skipped"]) == (2, 1, 0)
