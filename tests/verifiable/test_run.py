"""A run on data=verifiable: what it leaves, and where its numbers are shown."""

import pytest
from support import hub
from support.tiny import play

from analysis import show
from analysis.reading.runs import Runs
from analysis.report import run_page
from tspin.runs.artifacts import ANSWERS, VERDICTS
from tspin.tools.files import read_json
from tspin.tools.parquet import read_rows

pytestmark = pytest.mark.runs


def test_a_run_judges_instruction_by_instruction(tmp_path):
    """Of a random policy: all answers are wrong, and every one is accounted for."""
    policy = hub.checkpoint(tmp_path / "policy")
    folder, rows = play(
        *(tmp_path / "runs", "sft", "model=custom", f"model.path={policy}", "data=verifiable"),
        *("data.size=4", "data.heldout=8", "selfplay.iterations=1", "decoding.max_new_tokens=4"),
        *("model.template=alpaca", "model.max_length=1024"),
    )
    assert rows[-1]["accuracy_greedy"] == 0.0
    out = folder.iteration(0)
    answers = read_rows(out.answers)
    assert answers[0].keys() == {*VERDICTS.names} and len(VERDICTS) == len(ANSWERS) + 4
    assert {row["kind"] for row in answers} == {"known", "combination", "family"}
    assert all(len(row["families"]) == len(row["strict"]) == len(row["loose"]) for row in answers)
    assert not any(any(row["strict"]) for row in answers if row["finish_reason"] == "length")

    evaluation = read_json(out.evaluation)
    assert evaluation["heldout"]["instruction_strict,greedy"]["n"] == 8
    families = {name for row in answers for name in row["families"]}
    assert {*evaluation["families"]} == families

    lines = show.text(folder.path, every=True)
    assert all(f"families.{name}.strict,greedy.value" in lines for name in families)
    runs = Runs.read_one(folder.path)
    table = run_page.instructions(runs, next(iter(runs)))
    assert table["head"] == ["greedy answers, %", "base", "0"]
    titles = [row[0] for row in table["rows"]]
    assert titles[0] == "prompts, strict" and {*titles[7:]} == families
    assert "Instructions, family by family" in run_page.write(folder.path).read_text()
