"""`python -m tspin chat`: talk to an iteration's policy in the terminal, or to two side by side.

Every line is a prompt of its own: policies are trained on the first round of a conversation.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tspin.cli.options import BOOLEAN, KeyParser
from tspin.cli.stored_run import RUN, StoredRun
from tspin.config.run import Run
from tspin.data.templates import Conversation, Rendering
from tspin.sampling.requests import Request, sample_seed
from tspin.tools.terminal import beside, printable, terminal_width

if TYPE_CHECKING:
    from tspin.policy.policy import Policy

BASE = "base"
QUIT = ("/quit", "/exit")
NARROW = 60  # characters; below that two answers stand one under the other
WIDEST = 160  # of two columns


def parser() -> KeyParser:
    options = KeyParser(
        "chat",
        about="Every line you type is a prompt of its own, in the form and with the sampling of "
        f"the\nrun; the same line again is another sample. {QUIT[0]}, Ctrl-D or, at an empty line, "
        "Ctrl-C ends it;\nCtrl-C while it answers stops the answer. Lines may be piped: under one "
        "seed they are answered\nalike.",
        examples="  python -m tspin chat run=runs/NAME\n"
        f"  python -m tspin chat run=runs/NAME iteration=4 against={BASE}\n"
        "  python -m tspin chat run=runs/NAME greedy=true < prompts.txt",
    )
    options.option("run", RUN)
    options.option(
        "iteration", f"best, last, a number, or {BASE}: the initial policy", default="last"
    )
    options.option("against", "another one, whose answers stand beside", default="")
    options.option("system", "a system message before every prompt", default="")
    options.option(
        "greedy", "true: the likeliest token at every step", default="false", choices=BOOLEAN
    )
    options.option(
        "tokens", "of an answer at most; without it decoding.max_new_tokens of the run", default=""
    )
    options.option("seed", "of the samples", default="0")
    return options


def main(arguments: Sequence[str]) -> None:
    options = parser().read(arguments)

    greedy = options["greedy"] == "true"
    if not options["seed"].isdecimal():
        raise ValueError(f"seed={options['seed']} is no whole number from 0")
    run = StoredRun.open(options["run"])
    cfg = _longer(run.cfg, options["tokens"]) if options["tokens"] else run.cfg
    chosen = [options[key] for key in ("iteration", "against") if options[key]]
    by_name = dict(_weights(run, name) for name in chosen)
    policies = {name: load(folder, cfg, run.rendering) for name, folder in by_name.items()}
    system = options["system"] or None
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        how = "greedy" if greedy else f"temperature {cfg.decoding.temperature:g}"
        sys.stdout.write(
            f"{run.folder.path.name}: {' and '.join(policies)}, {how}, at most "
            f"{cfg.decoding.max_new_tokens} tokens. {QUIT[0]} ends it.\n"
        )
    for number, line in enumerate(_lines(at_terminal)):
        seed = None if greedy else sample_seed(int(options["seed"]), number, line)
        try:
            answers = {
                name: answer(policy, line, cfg, seed=seed, system=system)
                for name, policy in policies.items()
            }
        except KeyboardInterrupt:
            if not at_terminal:
                raise
            sys.stdout.write("\n(stopped)\n\n")
            continue
        if at_terminal:
            sys.stdout.write(_notes(next(iter(policies.values())), line, cfg, system))
        sys.stdout.write(shown(answers, width=min(terminal_width(), WIDEST)))
        sys.stdout.flush()


def load(folder: Path, cfg: Run, rendering: Rendering) -> Policy:
    """The policy in `folder`, in the memory that sampling takes, its layers as they are: what makes
    training fast may not be here, and sampling does without.
    """
    from tspin.policy import policy  # here: --help needs no torch
    from tspin.policy.inference import narrow

    compute = replace(cfg.compute, compile=False, kernels="torch")
    loaded = policy.load(folder, template=rendering, compute=compute, precision=cfg.optim.precision)
    narrow(loaded.model, loaded.autocast)
    return loaded


def answer(
    policy: Policy, prompt: str, cfg: Run, *, seed: int | None, system: str | None = None
) -> str:
    """What the policy says to a prompt, as the run samples. seed: of the draw; None: greedy

    A response that was cut at its length limit ends with "...".
    """
    from tspin.sampling.native import respond

    conversation = policy.renderer.fit(
        Conversation(prompt, system), max_length=cfg.max_prompt_length
    )
    request = Request(policy.renderer.prompt_ids(conversation), seed, cfg.decoding.temperature)
    (response,) = respond(policy, [request], cfg.decoding)
    ended = response[-1] in policy.renderer.stop_ids
    return policy.renderer.text(response) + ("" if ended else " ...")


def shown(answers: Mapping[str, str], *, width: int) -> str:
    """One answer as it is, two in columns under their names, or one under the other."""
    texts = {name: printable(text) or "(nothing)" for name, text in answers.items()}
    if len(texts) == 1:
        (text,) = texts.values()
    elif width < NARROW:
        text = "\n".join(f"[{name}] {text}" for name, text in texts.items())
    else:
        text = beside(texts, width=width)
    return f"{text}\n\n"


def _longer(cfg: Run, tokens: str) -> Run:
    """The run with answers of another length; prompts have the rest of model.max_length."""
    if not (tokens.isdecimal() and 0 < int(tokens) < cfg.model.max_length):
        raise ValueError(
            f"tokens={tokens} is no whole number from 1 to {cfg.model.max_length - 1}, "
            "below model.max_length"
        )
    decoding = replace(cfg.decoding, max_new_tokens=int(tokens))
    return replace(cfg, decoding=decoding, model=replace(cfg.model, max_prompt_length=None))


def _notes(policy: Policy, line: str, cfg: Run, system: str | None) -> str:
    """What was left out of a prompt that is too long."""
    length = len(policy.renderer.prompt_ids(Conversation(line, system)))
    most = cfg.max_prompt_length
    if length <= most:
        return ""
    return f"(of {length} tokens of the prompt {most} are read: its beginning is left out)\n"


def _lines(at_terminal: bool) -> Iterator[str]:
    """What is typed or piped, without empty lines, up to /quit."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    for line in _typed() if at_terminal else sys.stdin:
        if line.strip() in QUIT:
            return
        if line.strip():
            # Bytes that are no UTF-8 arrive from a terminal as surrogates, which are no text.
            yield line.rstrip("\n").encode("utf-8", "replace").decode()


def _typed() -> Iterator[str]:
    import readline  # line editing and history for input()

    while True:
        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt) as stopped:
            sys.stdout.write("\n")
            if isinstance(stopped, EOFError) or not readline.get_line_buffer():
                return
            continue
        yield line


def _weights(run: StoredRun, name: str) -> tuple[str, Path]:
    """What an iteration, or BASE, is called here, and its weights."""
    if name == BASE:
        from tspin.policy.weights import check_reachable, fetch

        check_reachable(run.cfg.model)
        return "initial policy", fetch(run.cfg.model)
    out = run.iteration(name)
    return f"iteration {out.t}", run.weights(out)
