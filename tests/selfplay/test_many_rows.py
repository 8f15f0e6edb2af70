"""A run leaves the same files, to the bit, whether memory holds its texts and ids or the disk."""

import json

import pytest
from support.contents import contents
from support.tiny import play

from tspin.micro import task
from tspin.tools import spill
from tspin.tools.spill import Spill

HOW = {
    "mixed": ["tspin_ref", "data.mix_last_two=true"],
    "curriculum": ["tspin", "curriculum=random", "curriculum.share=0.5"],
}


@pytest.mark.runs
@pytest.mark.parametrize("words", HOW.values(), ids=HOW)
def test_a_run_whose_rows_are_on_the_disk(tmp_path, monkeypatch, words):
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": x, "response": y} for x, y in task.pairs("train", 50, seed=0)]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    loss, *others = words
    others += ["data=file", f"data.path={file}"]
    found, kept, begin = [], [], Spill.__init__
    monkeypatch.setattr(Spill, "__init__", lambda self: begin(self) or kept.append(self))
    for in_memory in (2**26, 0):
        monkeypatch.setattr(spill, "IN_MEMORY", in_memory)
        kept.clear()
        folder, _ = play(tmp_path / str(in_memory), loss, *others, name="run")
        found.append(contents(folder.path))
        spilled = [each for each in kept if each._file is not None]
        assert len(spilled) == (0 if in_memory else len(kept)) and len(kept) > 3
    assert found[0] == found[1] and "iter_1/done.json" in found[0]
