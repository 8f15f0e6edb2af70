"""`python -m tspin chat`: talk to an iteration's policy in the terminal, or to two side by side."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tspin.cli.options import BOOLEAN, KeyParser
from tspin.cli.stored_run import RUN, StoredRun
from tspin.config.run import Run
from tspin.data.cells import BadRow
from tspin.data.templates import CHAT
from tspin.sampling.requests import sample_seed
from tspin.sampling.speaker import Answer, Question, Speaker
from tspin.tools.spelling import unknown
from tspin.tools.terminal import beside, printable, terminal_width

BASE = "base"
QUIT = ("/quit", "/exit")
RESET = "/reset"
AUTO = "auto"
NOTHING = "(nothing)"
NARROW = 60  # characters; below that two answers stand one under the other
WIDEST = 160  # of two columns


def parser() -> KeyParser:
    options = KeyParser(
        "chat",
        about="What you type is answered in the template and with the sampling of the run; the "
        "same words again\nare another sample. Under model.template=chat it goes on with the "
        "conversation, and what no longer\nfits is left out, the earliest round first. An answer "
        "appears as it comes, two answers beside each\nother when both are there.\n\n"
        f"  {RESET}   begins a new conversation\n"
        f"  {QUIT[0]}    ends it; so do Ctrl-D and, at an empty line, Ctrl-C\n"
        "  Ctrl-C   stops an answer, which is then no part of the conversation\n\n"
        "Lines may be piped: each is a prompt of its own. Under one seed they are answered alike.",
        examples="  python -m tspin chat run=runs/NAME\n"
        f"  python -m tspin chat run=runs/NAME iteration=4 against={BASE}\n"
        "  python -m tspin chat run=runs/NAME --system='Answer in one word.'\n"
        "  python -m tspin chat run=runs/NAME greedy=true < prompts.txt",
    )
    options.option("run", RUN)
    options.option(
        "iteration", f"best, last, a number, or {BASE}: the initial policy", default="last"
    )
    options.option("against", "another one, whose answers stand beside", default="")
    options.option("system", "a system message before every conversation", default="")
    options.option(
        "rounds",
        "true: lines are one conversation; false: each is a prompt of its own; "
        f"{AUTO}: by the template, and false where they are piped",
        default=AUTO, choices=(AUTO, *BOOLEAN),
    )  # fmt: skip
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

    greedy, at_terminal = options["greedy"] == "true", sys.stdin.isatty()
    if not options["seed"].isdecimal():
        raise ValueError(f"seed={options['seed']} is no whole number from 0")
    run = StoredRun.open(options["run"])
    # A plain text template has a form for rounds, too, but one that no model has been trained on.
    by_itself = at_terminal and run.cfg.model.template == CHAT
    goes_on = by_itself if options["rounds"] == AUTO else options["rounds"] == "true"
    cfg = _longer(run.cfg, options["tokens"]) if options["tokens"] else run.cfg
    chosen = [options[key] for key in ("iteration", "against") if options[key]]
    by_name = dict(_weights(run, name) for name in chosen)
    speakers = [Speaker.load(name, by_name[name], cfg, run.rendering) for name in by_name]
    for speaker in speakers:
        speaker.system = options["system"] or None
    if at_terminal:
        lines = f"{RESET} begins a new conversation"
        if not goes_on:
            lines = "Every line is a prompt of its own (rounds=true: one conversation)"
        how = "greedy" if greedy else f"temperature {cfg.decoding.temperature:g}"
        sys.stdout.write(
            f"{run.folder.path.name}: {' and '.join(by_name)}, {how}, at most "
            f"{cfg.decoding.max_new_tokens} tokens. {lines}, {QUIT[0]} ends it.\n"
        )
    for number, line in enumerate(_lines(at_terminal)):
        if line.strip() == RESET:
            for speaker in speakers:
                speaker.rounds = ()
            continue
        seed = None if greedy else sample_seed(int(options["seed"]), number, line)
        try:
            questions = [speaker.ask(line) for speaker in speakers]
            if at_terminal:
                left_out = dict.fromkeys(question.left for question in questions if question.left)
                sys.stdout.writelines(f"(too long, left out: {what})\n" for what in left_out)
            answers = _answers(speakers, questions, seed=seed)
        except (KeyboardInterrupt, BadRow) as stopped:
            if not at_terminal:
                raise
            why = f"error: {stopped}" if isinstance(stopped, BadRow) else "\n(stopped)"
            sys.stdout.write(f"{why}\n\n")
            continue
        if goes_on:
            for speaker, question, answer in zip(speakers, questions, answers, strict=True):
                speaker.keep(question, answer)


def side_by_side(texts: Mapping[str, str], *, width: int) -> str:
    """Name -> answer in columns, or one under the other."""
    texts = {name: printable(text) or NOTHING for name, text in texts.items()}
    if width < NARROW:
        return "\n".join(f"[{name}] {text}" for name, text in texts.items())
    return beside(texts, width=width)


def _answers(
    speakers: Sequence[Speaker], questions: Sequence[Question], *, seed: int | None
) -> list[Answer]:
    """What all say, with the same draw; written: of one as it comes, of two when both are there."""
    if len(speakers) == 1:
        answers = [speakers[0].answer(questions[0], seed=seed, write=_write)]
        _write("\n\n" if str(answers[0]) else f"{NOTHING}\n\n")
        return answers
    answers = [
        s.answer(question, seed=seed) for s, question in zip(speakers, questions, strict=True)
    ]
    texts = {speaker.name: str(a) for speaker, a in zip(speakers, answers, strict=True)}
    _write(f"{side_by_side(texts, width=min(terminal_width(), WIDEST))}\n\n")
    return answers


def _write(text: str) -> None:
    sys.stdout.write(printable(text))
    sys.stdout.flush()


def _longer(cfg: Run, tokens: str) -> Run:
    """The run with answers of another length; prompts have the rest of model.max_length."""
    if not (tokens.isdecimal() and 0 < int(tokens) < cfg.model.max_length):
        raise ValueError(
            f"tokens={tokens} is no whole number from 1 to {cfg.model.max_length - 1}, "
            "below model.max_length"
        )
    decoding = replace(cfg.decoding, max_new_tokens=int(tokens))
    return replace(cfg, decoding=decoding, model=replace(cfg.model, max_prompt_length=None))


def _lines(at_terminal: bool) -> Iterator[str]:
    """What is typed or piped, without empty lines, up to /quit."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    for line in _typed() if at_terminal else sys.stdin:
        word = line.strip()
        if word in QUIT:
            return
        if at_terminal and word != RESET and re.fullmatch("/[a-z]+", word):
            sys.stdout.write(f"{unknown(f'word {word}', word, (RESET, *QUIT))}\n\n")
        elif word:
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
