"""`tspin ls` and `tspin rm`, on real runs; and what a failed start leaves."""

import io
import re

import pytest
from support.tiny import play

from tspin.__main__ import main
from tspin.cli import sweep
from tspin.cli.command import check
from tspin.runs import removal
from tspin.tools.files import owner, read_json, write_json

pytestmark = pytest.mark.runs


@pytest.fixture
def runs(finished_copy, tmp_path):
    """A finished run, and one that began alike: both have the same y0 and base evaluation."""
    play(tmp_path, "wo_ha", "selfplay.iterations=1", "selfplay.keep=last")
    return tmp_path


def test_runs_are_listed_with_how_far_and_how_good_they_are(runs, capsys):
    evaluation = runs / "tspin/iter_1/eval.json"
    value = read_json(evaluation)["heldout"]["exact_match,greedy"]["value"]
    (runs / "wo_ha/iter_0/done.json").unlink()
    assert main(["ls", str(runs)]) == 0
    shown = filter(str.strip, capsys.readouterr().out.splitlines())
    lines = {line.split()[-1]: line for line in shown}
    whole = rf" 2 of 2 +accuracy {value:.4g} +\S+ \wB +complete +tspin"
    assert re.fullmatch(whole, lines["tspin"].rstrip())
    assert re.search(r"0 of 1 .*stopped +wo_ha", lines["wo_ha"])


def test_a_run_goes_with_what_only_it_had(runs, capsys):
    shared = [*runs.glob("proto/*"), *runs.glob("base/*")]
    assert len(shared) == 2
    assert main(["rm", "wo_ha", "--runs", str(runs), "--yes"]) == 0
    out = capsys.readouterr().out
    assert out.count("tspin has it too") == 2 and not (runs / "wo_ha").exists()
    assert all(path.exists() for path in shared) and (runs / "tspin/proto").is_dir()
    assert main(["rm", str(runs / "tspin"), "--yes"]) == 0
    assert not any(path.exists() for path in (*shared, runs / "tspin"))


def test_what_is_not_removed(runs, capsys, monkeypatch):
    """A live run, a run of another name, and one that nobody has said yes to."""
    with owner(runs / "tspin"):
        assert main(["rm", "tspin", "--runs", str(runs), "--yes"]) == 1
    assert "tspin is running" in capsys.readouterr().err
    assert main(["rm", "tspn", "--runs", str(runs), "--yes"]) == 1
    assert f"did you mean {runs / 'tspin'}?" in capsys.readouterr().err
    assert main(["rm", "tspin", "--runs", str(runs)]) == 1
    assert "add --yes" in capsys.readouterr().err
    typed = io.StringIO("n\n")
    typed.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", typed)
    assert main(["rm", "tspin", "--runs", str(runs)]) == 0
    assert "nothing was removed" in capsys.readouterr().out
    assert (runs / "tspin/iter_1/done.json").exists()


def test_a_point_of_a_live_multirun_is_not_removed(finished_copy, capsys):
    """Announced, or done already; one that was killed holds nothing."""
    runs = finished_copy.path.parent
    words = ["-m", "coef.beta=0,0.1", "selfplay.keep=last", f"runs_dir={runs}", "track=none"]
    plan = sweep.plan("betas", check(words).points)
    done, begun = finished_copy.path, plan.points[0].folder.path
    for holding, path in ((sweep.announced(plan), begun), (removal.holding([done]), done)):
        with holding:
            assert main(["rm", str(path), "--yes"]) == 1
        assert "point of a multirun that goes on" in capsys.readouterr().err
    assert removal.holder(done) is None
    write_json(runs / removal.MULTIRUNS / "killed" / removal.POINTS, {"points": [done.name]})
    assert main(["rm", str(done), "--yes"]) == 0 and not done.exists()
    with removal.holding([done]):
        assert [note.name for note in (runs / removal.MULTIRUNS).iterdir()] != ["killed"]
    assert list((runs / removal.MULTIRUNS).iterdir()) == []


def test_a_start_that_fails_before_the_first_artifact_leaves_no_run(tmp_path):
    """More held-out prompts than the file has pairs: known once it is read."""
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    words = ("data=file", f"data.path={tmp_path / 'pairs.jsonl'}")
    with pytest.raises(ValueError, match="data.heldout=16 exceeds"):
        play(tmp_path / "runs", "tspin", *words)
    assert not (tmp_path / "runs/tspin").exists()
