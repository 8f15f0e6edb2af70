"""What prepare leaves of rows that hold more than a prompt and a response."""

import json

from support.tiny import compose, micro_tokenizer

from tspin.data.tokens import Renderer
from tspin.runs.artifacts import RunDir
from tspin.stages.prepare import prepare
from tspin.tools.files import read_json
from tspin.tools.parquet import each_row


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
    prepare(run, folder, Renderer(micro_tokenizer(), "alpaca"))
    kept = [(row["system"], row["history"], row["prompt"]) for row in each_row(folder.prompts)]
    assert sorted(kept, key=str) == [("s", None, "x"), ("s", [["x", "y"]], "z")]
    facts = read_json(folder.data)
    assert (facts["num_train"], facts["num_undesirable"], facts["num_skipped"]) == (2, 1, 0)
