"""Talks with the policies of a run, piped and at a terminal."""

import io
import os
import re
import select
import sys
from pathlib import Path

import pytest
from support import waiting

from tspin.cli import chat
from tspin.cli.chat import side_by_side

WIDE = "\u4f60"  # two columns of a terminal


@pytest.mark.slow
def test_a_piped_talk_is_answered_line_by_line(run, call, monkeypatch):
    words = ["chat", f"run={run.path}", "greedy=true"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("Say 1.\n\nSay 2.\n/quit\nSay 3.\n"))
    code, output = call(*words)
    assert code == 0 and output.count("\n\n") == 2
    monkeypatch.setattr(sys, "stdin", io.StringIO("Say 1.\nSay 2.\n"))
    assert call(*words) == (0, output)


def test_two_policies_side_by_side(run, call, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Say 1.\n"))
    code, output = call("chat", f"run={run.path}", "iteration=1", "against=base")
    assert code == 0
    head, rule, *_ = output.split("\n")
    assert re.split(r"  +", head) == ["iteration 1", "initial policy"] and set(rule) == {"-"}


@pytest.mark.parametrize(("tokens", "length"), [("3", 3), ("0", None), ("64", None), ("x", None)])
def test_answers_of_another_length(run, call, monkeypatch, tokens, length):
    """The run's model.max_length is 64, and a prompt needs room."""
    lengths = []

    def respond(policy, questions, how, **_):
        lengths.append(how.max_new_tokens)
        return [[policy.renderer.eos_id]]

    monkeypatch.setattr("tspin.sampling.native.respond", respond)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\n"))
    code, output = call("chat", f"run={run.path}", f"tokens={tokens}")
    assert lengths == ([] if length is None else [length])
    assert code == 0 if length else output.startswith(f"error: tokens={tokens} is no whole number")


def test_piped_lines_are_a_conversation_where_that_is_asked_for(run, call, monkeypatch):
    """... up to /reset, and /reset is no prompt. By default each stands alone."""
    seen = []

    def respond(policy, requests, how, **_):
        seen.append(policy.renderer.text(requests[0].prompt))
        return [policy.renderer.response_ids("x")]

    monkeypatch.setattr("tspin.sampling.native.respond", respond)
    for words, numbers in (["rounds=true"], [1, 2, 1]), ([], [1, 1, 1]):
        seen.clear()
        monkeypatch.setattr(sys, "stdin", io.StringIO("a\nb\n/reset\nc\n"))
        code, output = call("chat", f"run={run.path}", "--system=S", "tokens=1", *words)
        assert code == 0 and output.count("\n\n") == 3
        assert [text.count("Instruction") for text in seen] == numbers
        assert all(text.startswith("S\n\n") for text in seen)


def test_columns_and_rows():
    two = {"a": "x y", "b": ""}
    assert side_by_side(two, width=20) == "[a] x y\n[b] (nothing)"
    head, rule, *rows = side_by_side({"a": "one\n\ntwo", "b": WIDE * 20}, width=63).splitlines()
    assert head.split() == ["a", "b"] and set(rule) == {"-"}
    left, right = zip(*((row[:28].strip(), row[28:].strip()) for row in rows if row), strict=True)
    assert left == ("one", "", "two")
    assert "".join(right) == WIDE * 20 and max(map(len, right)) * 2 <= 30


def test_no_answer_steers_the_terminal(capsys):
    chat._write("\x1b[2Jx\u202ey\r\x9b\ud800\tz\n\u4f60")
    assert capsys.readouterr().out == "\ufffd[2Jx\ufffdy\ufffd\ufffd\ufffd\tz\n\u4f60"
    assert side_by_side({"a": "\x1b"}, width=20) == "[a] \ufffd"


@pytest.fixture(scope="module")
def talk(run):
    """A process that chats at a terminal of its own. -> what types and gives what was shown"""
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        words = ["-m", "tspin", "chat", f"run={run.path}", "greedy=true", "rounds=true"]
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
    assert greeting.endswith(
        "outside: iteration 1, greedy, at most 10 tokens. /reset begins a new conversation, "
        "/quit ends it.\n> "
    )


@pytest.mark.process
def test_keys_at_a_terminal(talk):
    """Nothing for empty lines, Ctrl-C clears a line, bytes that are no text do no harm."""
    _, type_in = talk
    one = type_in(b"Say 1.\n").split("\n", 1)[1]
    assert one.endswith("\n\n> ")
    assert type_in(b"\n").strip() == ">" and type_in(b"   \n").strip() == ">"
    type_in(b"half", b"half")
    assert type_in(b"\x03").strip(" \n^C") == ">"
    type_in(b"/reset\n")
    assert type_in(b"Say 1.\n").split("\n", 1)[1] == one
    assert type_in(b"\xff" + WIDE.encode() + b"\n").endswith("\n\n> ")
    long = type_in(b"x" * 3000 + b"\n")
    assert re.search(r"\(too long, left out: \d earlier rounds? and the beginning of the p", long)
    assert "did you mean /reset?" in type_in(b"/rest\n")


def test_ctrl_c_stops_an_answer_and_not_the_talk(run, call, monkeypatch):
    lines = iter(["Say 1.", "Say 2."])

    def typed(_):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    def respond(policy, questions, how, **_):
        if sum(1 for _ in lines) == 0:
            return [[policy.renderer.eos_id]]
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr("tspin.sampling.native.respond", respond)
    code, output = call("chat", f"run={run.path}")
    assert code == 0 and output.count("(stopped)") == 1
    assert "Every line is a prompt of its own (rounds=true: one conversation), /quit" in output


def test_a_response_that_was_cut_says_so(run, call, monkeypatch):
    ended = {"yes": [40, 1], "no": [40]}
    for what, ids in ended.items():
        monkeypatch.setattr("tspin.sampling.native.respond", lambda *_, ids=ids, **__: [ids])
        monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\n"))
        _, output = call("chat", f"run={run.path}")
        assert output.endswith(" ...\n\n") == (what == "no")
