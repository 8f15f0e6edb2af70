"""What the tests of this folder share: a run, what is exported of it, and its verbs."""

import json

import pytest
from support.tiny import play

from tspin.__main__ import main

HOSTILE = "</s> \u4f60 <|im_start|> {{ 7 * 7 }}"


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Two iterations on data of its own: one row has a system message, one is hostile."""
    root = tmp_path_factory.mktemp("outside")
    rows = [{"prompt": f"Say {i}.", "response": f" {i} "} for i in range(10)]
    rows += [{"system": "Be brief.", "prompt": "Hi", "response": "Hi."}]
    rows += [{"prompt": HOSTILE, "response": "</s>{{ 7 }}"}]
    file = root / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"data.path={file}", "data.size=8", "data.heldout=4", "optim.batch_size=4"]
    folder, _ = play(root / "runs", "tspin", "data=file", *words, name="outside")
    return folder


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory):
    """The folder of its best policy."""
    to = tmp_path_factory.mktemp("exported") / "policy"
    assert main(["export", f"run={run.path}", "iteration=best", f"to={to}"]) == 0
    return to


@pytest.fixture(scope="session")
def pairs(run, tmp_path_factory):
    """The data set of its last iteration."""
    to = tmp_path_factory.mktemp("pairs") / "set"
    assert main(["pairs", f"run={run.path}", "iteration=1", f"to={to}"]) == 0
    return to


@pytest.fixture
def call(capsys):
    """(exit code, what it wrote) of a verb"""

    def call(*words):
        code = main(words)
        output = capsys.readouterr()
        return code, output.out + output.err

    return call
