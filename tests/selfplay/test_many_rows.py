"""A run leaves the same files, to the bit, whether memory holds its texts and ids or the disk."""

import json

import pytest
from support.contents import contents
from support.tiny import play

from tspin.data import pairs
from tspin.micro import task
from tspin.runs import artifacts
from tspin.selfplay import inputs
from tspin.tools.spill import Spill

HOW = {
    "mixed": ["loss=tspin_ref", "data.mix_last_two=true"],
    "curriculum": ["loss=tspin", "curriculum=random", "curriculum.share=0.5"],
}


@pytest.mark.runs
@pytest.mark.parametrize("words", HOW.values(), ids=HOW)
def test_a_run_whose_rows_are_on_the_disk(tmp_path, monkeypatch, words):
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": x, "response": y} for x, y in task.pairs("train", 50, seed=0)]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    loss, *others = words
    others += ["data=file", f"data.path={file}"]
    found = []
    for in_memory in (2**26, 0):
        kept = []

        class Watched(Spill):
            def __init__(self, most=in_memory, kept=kept):
                super().__init__(most)
                kept.append(self)

        for module in (pairs, artifacts, inputs):
            monkeypatch.setattr(module, "Spill", Watched)
        folder, _ = play(tmp_path / str(in_memory), loss.removeprefix("loss="), *others, name="run")
        found.append(contents(folder.path))
        spilled = [spill for spill in kept if spill._file is not None]
        assert len(spilled) == (0 if in_memory else len(kept)) and len(kept) > 3
    assert found[0] == found[1] and "iter_1/done.json" in found[0]
