"""`python -m tspin chat`: talk to an iteration's policy in the terminal, or to two side by side.

Every line is a prompt of its own: policies are trained on the first round of a conversation.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from tspin import asked, model
from tspin.artifacts import RunDir
from tspin.asked import Told
from tspin.config import Run
from tspin.console import harmless, terminal_width
from tspin.model import Policy
from tspin.questions import Question, luck
from tspin.sampling import respond

BASE = "base"
QUIT = ("/quit", "/exit")
NARROW = 60  # characters; below that two answers stand one under the other
ABOUT = f"""Every line you type is a prompt, in the form and with the sampling of the run; {QUIT[0]}
or the end of the input ends it. Lines may be piped; under one seed they are answered alike."""
OPTIONS = {
    "run": asked.RUN,
    "iteration": ("last", f"best, last, a number, or {BASE}: the initial policy"),
    "against": ("", "another one, whose answers stand beside"),
    "system": ("", "a system message before every prompt"),
    "greedy": ("false", "true: the likeliest token at every step"),
    "seed": ("0", "of the samples"),
}


def main(arguments: Sequence[str]) -> int:
    return asked.answer("chat", ABOUT, OPTIONS, arguments, _chat)


def _chat(told: Told) -> None:
    greedy = asked.choice(told, "greedy", ("true", "false")) == "true"
    if not told["seed"].isdecimal():
        raise ValueError(f"seed={told['seed']} is no whole number from 0")
    cfg, folder = asked.opened(told["run"])
    words = [told[key] for key in ("iteration", "against") if told[key]]
    policies = {name: _load(cfg, path) for name, path in (_found(cfg, folder, w) for w in words)}
    names = list(policies)
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        sys.stdout.write(f"{folder.path}: {', '.join(names)}. {QUIT[0]} ends it.\n")
    for number, line in enumerate(_lines(at_terminal)):
        seed = None if greedy else luck(int(told["seed"]), number, line)
        answers = [
            answer(policy, line, cfg, seed=seed, system=told["system"] or None)
            for policy in policies.values()
        ]
        sys.stdout.write(beside(names, answers, width=min(terminal_width(), 160)))
        sys.stdout.flush()


def answer(
    policy: Policy, prompt: str, cfg: Run, *, seed: int | None, system: str | None = None
) -> str:
    """What the policy says to a prompt, as the run samples. seed: of the draw; None: greedy"""
    whole = policy.renderer.prompt_ids(prompt, system)
    ids = policy.renderer.cut_prompt(whole, max_length=cfg.max_prompt_length)
    asked_for = Question(ids, seed, cfg.decoding.temperature)
    (response,) = respond(policy, [asked_for], cfg.decoding)
    return policy.renderer.text(response)


def beside(names: Sequence[str], answers: Sequence[str], *, width: int) -> str:
    """The answer; two in columns under their names, or one under the other where it is narrow."""
    answers = [harmless(text) for text in answers]
    if len(answers) == 1:
        return f"{answers[0]}\n\n"
    if width < NARROW:
        return "".join(f"[{n}] {a}\n" for n, a in zip(names, answers, strict=True)) + "\n"
    each = (width - 3) // 2
    columns = [
        [name, "-" * len(name), *_wrapped(text, each)]
        for name, text in zip(names, answers, strict=True)
    ]
    rows = zip_longest(*columns, fillvalue="")
    return "\n".join(f"{left:<{each}} | {right}".rstrip() for left, right in rows) + "\n\n"


def _wrapped(text: str, width: int) -> list[str]:
    return [part for line in text.splitlines() for part in textwrap.wrap(line, width) or [""]]


def _lines(at_terminal: bool) -> Iterator[str]:
    """What is typed or piped, without empty lines, up to /quit."""
    for line in _raw(at_terminal):
        if line.strip() in QUIT:
            return
        if line.strip():
            yield line.rstrip("\n")


def _raw(at_terminal: bool) -> Iterable[str]:
    if not at_terminal:
        yield from sys.stdin
        return
    import readline  # noqa: F401 - line editing and history for input()

    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            sys.stdout.write("\n")
            return


def _found(cfg: Run, folder: RunDir, word: str) -> tuple[str, Path]:
    """What a word names, and its weights."""
    if word == BASE:
        model.check_reachable(cfg.model)
        return "initial policy", model.fetch(cfg.model)
    out = asked.iteration(folder, word)
    return f"iteration {out.t}", asked.weights(folder, out)


def _load(cfg: Run, weights: Path) -> Policy:
    return model.load(
        weights, template=cfg.model.template, compute=cfg.compute, precision=cfg.optim.precision
    )
