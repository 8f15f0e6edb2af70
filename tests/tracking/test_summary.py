"""The end of a run on the console: one run of two iterations, read by eye and by its commands."""

import shlex

import pytest
from support.tiny import play

from tspin.cli import chat
from tspin.cli.command import check
from tspin.runs.artifacts import RunDir
from tspin.tools.files import read_json, write_json
from tspin.tracking import report, summary

COMMAND = ["main.py", "loss=tspin", "track=none", "selfplay.iterations=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return play(tmp_path_factory.mktemp("runs"), "tspin")


@pytest.fixture
def launched(tmp_path):
    """Nothing but the record of a launch."""

    def folder(*command):
        path = tmp_path / "my runs" / "mine"
        launch = {"command": list(command), "config": {"selfplay": {"iterations": 2}}}
        write_json(RunDir(path).provenance, {"launches": [launch]})
        return RunDir(path)

    (tmp_path / "my runs" / "mine").mkdir(parents=True)
    return folder


@pytest.mark.runs
def test_the_table_fits_and_its_numbers_are_those_of_the_files(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")  # of a terminal: it makes no difference
    folder, rows = run
    lines = summary.end_table(folder, rows).splitlines()
    assert max(map(len, lines)) <= 100
    heads = ("iteration", "accuracy", "log pi(y)", "log pi(y')", "margin", "misaligned", "minutes")
    assert lines[1].split("  ") and all(head in lines[1] for head in heads)
    assert [line.split()[0] for line in lines[3:]] == ["base", "0", "1"]
    facts = read_json(folder.iteration(1).contingency)["train"]
    *_, logp, synthetic, margin, misaligned, _ = lines[-1].split()
    assert float(logp) == pytest.approx(facts["logps/annotated"], rel=1e-3)
    assert float(synthetic) == pytest.approx(facts["logps/synthetic"], rel=1e-3)
    difference = facts["rewards/annotated"] - facts["rewards/synthetic"]
    assert float(margin) == pytest.approx(difference, rel=1e-3)
    cells = facts["contingency"]
    assert misaligned == f"{(cells['reward_only'] + cells['logp_only']) / 24:.1%}"


def test_a_table_with_everything_at_its_widest_fits(tmp_path):
    """An accuracy of 1 stays in one block; a perplexity of a diverged run may need two."""
    row = {"iteration": "base", "logps_annotated": -123456.0, "logps_synthetic": -123456.0}
    row |= {"rewards_annotated": -1e-7, "rewards_synthetic": 1.234e-7, "seconds_train": 1e7}
    row |= {"both": 0, "reward_only": 1, "logp_only": 0, "neither": 0}
    average = {"average": 0.12345, "benchmarks": {"average": {"stderr": 0.12345}}}
    folder = RunDir(tmp_path)
    folder.base.path.mkdir()
    for metric, value, blocks, more in (
        ("exact_match,greedy", 1.0, 1, {}),
        ("perplexity", 1.2345e30, 2, average),
    ):
        estimate = {"value": value, "stderr": value / 10, "n": 99}
        write_json(folder.base.evaluation, {"heldout": {metric: estimate}})
        text = summary.end_table(folder, [row | more])
        assert max(map(len, text.splitlines())) <= 100
        assert len(text.split("\n\n")) == blocks


@pytest.mark.runs
def test_the_sentence_is_from_the_base_to_the_last(run):
    folder, rows = run
    first, last = (out.evaluation for out in (folder.base, folder.iteration(1)))
    before, now = (
        read_json(file)["heldout"]["exact_match,greedy"]["value"] for file in (first, last)
    )
    sentence = summary.sentence(folder, rows)
    begin = f"held-out accuracy: {before:.1%} to {now:.1%}, {100 * (now - before):+.1f} points ["
    assert sentence.startswith(begin) and sentence.endswith("] (base to iteration 1)")
    assert summary.sentence(folder, rows[2:]).startswith(f"held-out accuracy: {now:.1%} [")
    assert "data.heldout" in summary.sentence(folder, [])


@pytest.mark.runs
def test_the_numbers_of_the_table_are_those_of_report_results(run):
    folder, rows = run
    assert rows == report.results(folder)
    assert summary.end_table(folder, rows) in summary.text(folder, rows)


def test_three_commands_that_are_understood(launched):
    folder = launched(*COMMAND)
    analysis, talk, longer = map(shlex.split, summary.next_commands(folder))
    assert analysis[:4] == ["python", "-m", "analysis", "all"]
    assert analysis[4] == f"runs={folder.path.parent}"
    assert talk[:4] == ["python", "-m", "tspin", "chat"]
    assert chat.parser().read(talk[4:])["run"] == str(folder.path)
    assert longer[:2] == ["python", "main.py"]
    [point] = check(longer[2:]).points
    assert point.run.selfplay.iterations == 4 and point.run.loss.name == "tspin"


def test_the_longer_run_is_this_one_going_on(launched):
    """More iterations under the same name, whoever gave it: by main.py or the command tspin."""
    for words in (["main.py", "name=mine", "track.tags=[]"], ["-m", "tspin", "run", "loss=spin"]):
        folder = launched(*words)
        *_, longer = summary.next_commands(folder)
        typed = shlex.split(longer)
        assert typed[:2] == (["python", "main.py"] if "main.py" in words else ["tspin", "run"])
        [point] = check(typed[2:]).points
        assert point.run.name == folder.path.name and point.run.selfplay.iterations == 4


@pytest.mark.parametrize("words", [(), ("name=mine",), ("name='mine'", "selfplay.iterations=2")])
def test_more_iterations_are_of_this_very_run(launched, words):
    """Whether its name was typed, or made of its configuration, where it would be another one."""
    *_, longer = summary.next_commands(launched("main.py", *words, "track.tags=[]"))
    [point] = check(shlex.split(longer)[2:]).points
    assert (point.run.name, point.run.selfplay.iterations) == ("mine", 4)


def test_a_run_of_another_program_has_no_command_for_a_longer_one(launched):
    assert len(summary.next_commands(launched("notebook"))) == 2
