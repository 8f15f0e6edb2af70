"""What others raise, wherever a command meets it, is one line; a slip of ours is a traceback."""

import errno
import io
import json
import logging
import os
import signal
import sys

import huggingface_hub
import huggingface_hub.errors
import jinja2
import pyarrow
import pyarrow.parquet
import pytest
import safetensors
import torch
from support.tiny import SMALL, play

import analysis.__main__
import main
import tspin.__main__
from tspin.cli import outcome
from tspin.runs.artifacts import RunDir
from tspin.selfplay import session
from tspin.stages import benchmark, evaluate, generate, prepare, score, train
from tspin.tools.log import kind_and_line


def raised(how):
    try:
        how()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def http():
    huggingface_hub.get_session().get("nowhere")  # which client it is, changes by version


def torch_load():
    torch.nn.Linear(1, 2).load_state_dict(torch.nn.Linear(2, 1).state_dict())


def no_entry():
    raise huggingface_hub.errors.LocalEntryNotFoundError("config.json is not cached")


def system(number):
    raise OSError(number, os.strerror(number), "part-00000.parquet")


FOREIGN = {  # as they are raised, and the kind that the line names
    "TemplateSyntaxError": lambda: jinja2.Environment().from_string("{% if %}"),
    "SafetensorError": lambda: safetensors.deserialize(b"not of this kind"),
    "ArrowInvalid": lambda: pyarrow.parquet.read_table(io.BytesIO(b"PAR0")),
    "LocalEntryNotFoundError": no_entry,
    "OSError: [Errno 5]": lambda: system(errno.EIO),
    "OSError: [Errno 28]": lambda: system(errno.ENOSPC),
    "JSONDecodeError": lambda: json.loads("{"),
    "UnicodeDecodeError": lambda: b"\xff".decode(),
    type(raised(http)).__name__: http,
    "RuntimeError": torch_load,
    "UnpicklingError": lambda: torch.load(io.BytesIO(b"not of this kind")),
    "KeyError": lambda: pyarrow.table({"a": [1]})["b"],
    "MemoryError": lambda: (_ for _ in ()).throw(MemoryError),
}


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where tracebacks go that no run keeps."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


# --- by kind and place ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FOREIGN)
def test_of_what_others_raise_the_line_has_place_kind_and_first_line(kind, temporary):
    error = raised(FOREIGN[kind])
    assert outcome.is_mendable(error)
    line = outcome.one_line(error, where="a-run")
    assert line.startswith(f"a-run: {kind}") and kind_and_line(error) in line and "\n" not in line
    [kept] = temporary.iterdir()
    assert f"(traceback: {kept})" in line and "Traceback (most recent" in kept.read_text()


def test_a_sentence_of_ours_stays_as_it_is(temporary):
    def ours():
        raise ValueError("data.path=x is no file;\n  give another")

    assert outcome.one_line(raised(ours), where="a-run") == "data.path=x is no file; give another"
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    "slip",
    [
        lambda: {}["key"],
        lambda: len(3),
        lambda: [][0],
        lambda: None.attribute,
        lambda: 1 / 0,
        lambda: torch.zeros(2) @ torch.zeros(3),
    ],
)
def test_a_slip_of_ours_is_none_that_a_user_can_mend(slip):
    error = raised(slip)
    assert not outcome.is_mendable(error)
    with pytest.raises(type(error)):
        outcome.exit_code(error)


def test_what_is_not_installed_can_be_installed_but_for_our_own():
    assert outcome.is_mendable(ModuleNotFoundError("no peft", name="peft"))
    assert not outcome.is_mendable(ModuleNotFoundError("no tspin.x", name="tspin.x"))


def test_the_line_names_the_file_that_our_code_was_at(tmp_path):
    (tmp_path / "scores.parquet").write_bytes(b"PAR0")
    from tspin.tools.parquet import read_rows

    line = outcome.one_line(raised(lambda: read_rows(tmp_path / "scores.parquet")))
    assert str(tmp_path / "scores.parquet") in line


# --- at the boundary of every stage --------------------------------------------------------------


@pytest.fixture
def run_ends(monkeypatch, tmp_path, caplog):
    """main.py in this process, which ends with one line. -> the line"""

    def call(*words):
        caplog.clear()
        argv = ["main.py", *SMALL, "loss=spin", "name=run", "track=none", *words]
        monkeypatch.setattr(sys, "argv", [*argv, f"runs_dir={tmp_path}"])
        with pytest.raises(SystemExit) as stopped:
            main.main()
        assert stopped.value.code == 1
        [line] = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
        return line

    return call


TASK = "+evals.tasks.mine={shots:null,metric:'acc,none'}"
# (stage, what it calls, how people know it), in the order in which a run comes to them
BOUNDARIES = [
    (prepare, "write_rows", "prepare"),
    (generate, "write_rows", "proto: generate"),
    (score, "progress", "base: score"),
    (evaluate, "write_rows", "base: evaluate"),
    (benchmark, "started", "base: benchmarks"),
    (score, "progress", "iteration 0: score reference"),
    (train, "gradient_step", "iteration 0: train"),
    (score, "progress", "iteration 0: score"),
    (evaluate, "write_rows", "iteration 0: evaluate"),
]


@pytest.mark.runs
def test_every_stage_of_a_run_ends_in_one_line_and_goes_on(run_ends, monkeypatch, tmp_path):
    """One run, stopped at every stage by another kind of error; each launch comes to the next."""
    monkeypatch.setattr(benchmark, "check", lambda evals: None)
    folder = RunDir(tmp_path / "run")
    kinds = [kind for kind in FOREIGN if kind not in ("MemoryError",)]
    for number, (stage, name, label) in enumerate(BOUNDARIES):
        kind = kinds[number % len(kinds)]

        def fails(*args, how=FOREIGN[kind], **kwargs):
            how()

        if label == "iteration 0: score reference":  # the benchmark stays undone
            monkeypatch.setattr(session.Session, "benchmark", lambda *args, **kwargs: False)
        with monkeypatch.context() as patch:
            patch.setattr(stage, name, fails)
            line = run_ends("evals=tasks", TASK)
        assert line.startswith(f"error: run: {label}: {kind}"), line
        assert line.endswith(f"(traceback: {folder.errors})"), line
    text = folder.errors.read_text()
    assert text.count("Traceback (most recent call last)") >= len(BOUNDARIES)


@pytest.mark.slow
def test_a_point_of_a_sweep_says_its_line_and_the_others_go_on(monkeypatch, tmp_path, caplog):
    from tspin.selfplay import algorithm

    done = []

    def run(cfg, *, command, alone):
        if cfg.seed == 0:
            FOREIGN["SafetensorError"]()
        done.append(cfg.seed)
        return []

    monkeypatch.setattr(algorithm, "run", run)
    monkeypatch.setattr("tspin.tracking.summary.text", lambda folder, rows, *, alone: "")
    monkeypatch.setattr(sys, "argv", ["main.py", "-m", "seed=0,1", f"runs_dir={tmp_path}/runs"])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == 1 and done == [1]
    [line] = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert line.startswith("error: micro-tspin-micro-s0: SafetensorError: ")
    assert "SafetensorError" in caplog.messages[-1]  # the table


@pytest.mark.parametrize("words", [["seed=0"], ["-m", "seed=0,1"]])
def test_before_a_run_begins_it_is_a_line_too(monkeypatch, caplog, words):
    monkeypatch.setattr("tspin.cli.command.compose", lambda overrides: FOREIGN["ArrowInvalid"]())
    monkeypatch.setattr(sys, "argv", ["main.py", *words])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == 2 and caplog.messages[-1].startswith("error: ArrowInvalid: ")


# --- verbs and analysis --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    return play(tmp_path_factory.mktemp("runs"), "tspin", "selfplay.iterations=1")[0].path


OF_VERBS = ["TemplateSyntaxError", "OSError: [Errno 28]", "RuntimeError"]


@pytest.mark.runs
@pytest.mark.parametrize(
    ("verb", "boundary"),
    [
        ("export", "tspin.export.card.write"),
        ("pairs", "tspin.export.pairs._card"),
        ("chat", "tspin.policy.policy.load"),
    ],
)
@pytest.mark.parametrize("kind", OF_VERBS)
def test_a_verb_ends_in_one_line(small_run, tmp_path, monkeypatch, capfd, verb, boundary, kind):
    monkeypatch.setattr(boundary, lambda *args, **kwargs: FOREIGN[kind]())
    words = [verb, f"run={small_run}", *([f"to={tmp_path / 'to'}"] if verb != "chat" else [])]
    assert tspin.__main__.main(words) == 1
    line = capfd.readouterr().err
    assert line.startswith(f"error: {verb} run={small_run}: {kind}") and line.count("\n") == 1


@pytest.mark.runs
@pytest.mark.parametrize(
    ("words", "boundary"),
    [
        (["all"], "analysis.report.render.images"),
        (["figure2"], "analysis.figures.pieces.write"),
        (["wandb_sync", "mode=offline"], "analysis.wandb.sync.RunDir"),
    ],
)
@pytest.mark.parametrize("kind", OF_VERBS)
def test_analysis_ends_in_one_line(
    small_run, tmp_path, monkeypatch, capfd, caplog, words, boundary, kind
):
    monkeypatch.setattr("analysis.report.catalogue.NAMES", ("figure2",))
    monkeypatch.setattr(boundary, lambda *args, **kwargs: FOREIGN[kind]())
    with pytest.raises(SystemExit) as stopped:
        analysis.__main__.main([*words, f"runs={small_run.parent}", f"out={tmp_path / 'out'}"])
    line = capfd.readouterr().err
    assert stopped.value.code == 1 and "Traceback" not in line
    assert line.startswith(f"error: analysis runs={small_run.parent}: {kind}")


# --- Ctrl-C --------------------------------------------------------------------------------------


def interrupted(*args, **kwargs):
    raise KeyboardInterrupt


def interrupted_import(*args, **kwargs):
    """As compiled modules pass it on, and who imports them."""
    try:
        raise ImportError("initialization failed") from KeyboardInterrupt()
    except ImportError as error:
        raise ImportError("numpy.core could not be imported") from error


CTRL_C = pytest.mark.parametrize("ctrl_c", [interrupted, interrupted_import])


@CTRL_C
@pytest.mark.parametrize("verb", tspin.__main__.VERBS)
def test_an_interrupted_verb_is_one_line(verb, ctrl_c, monkeypatch, capsys):
    monkeypatch.setattr(f"{tspin.__main__.VERBS[verb].module}.main", ctrl_c)
    assert tspin.__main__.main([verb]) == outcome.INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


@CTRL_C
@pytest.mark.parametrize("where", ["analysis.report.report.main", "analysis.wandb.sync.main"])
def test_an_interrupted_analysis_is_one_line(where, ctrl_c, monkeypatch, capsys):
    monkeypatch.setattr(where, ctrl_c)
    with pytest.raises(SystemExit) as stopped:
        analysis.__main__.main(["all" if "report" in where else "wandb_sync"])
    assert stopped.value.code == outcome.INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


@CTRL_C
def test_main_py_interrupted_before_self_play_is_one_line(ctrl_c, monkeypatch, capsys):
    monkeypatch.setattr("tspin.cli.run.check", ctrl_c)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == outcome.INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


# --- a run that diverges -------------------------------------------------------------------------


def test_where_nobody_reads_any_more_a_command_ends_without_a_word(monkeypatch, tmp_path, capsys):
    """`tspin status | head`, `python main.py --help | head`"""

    def broken(*_):
        raise BrokenPipeError

    begins = {
        "tspin.cli.status.main": lambda: tspin.__main__.main(["status"]),
        "tspin.cli.run.job": lambda: main.run.main(["--help"]),
    }
    for name, begin in begins.items():
        monkeypatch.setattr(name, broken)
        with (tmp_path / "out").open("w") as out, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            try:
                code = begin()
            except SystemExit as end:
                code = end.code
            out.write("what was still to be written")
        assert code == 128 + signal.SIGPIPE
        assert (tmp_path / "out").read_text() == "" and capsys.readouterr().err == ""


@pytest.mark.runs
def test_a_run_that_diverges_says_where_and_what_to_lower(run_ends, tmp_path):
    """The same command says the same: what diverged is no iteration to go on from."""
    for _ in range(2):
        line = run_ends("loss=tspin", "optim.lr=0.5", "optim.max_grad_norm=1.0")
        assert line.startswith("error: diverged at iteration 0: log pi(y) is -")
        assert "lower optim.lr (0.5 here)" in line
    assert not RunDir(tmp_path / "run").iteration(0).done.exists()
