"""What is typed behind a verb: KEY=VALUE, and the run and iteration it names. No torch."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tspin.config.run import Run
from tspin.runs import retention
from tspin.runs.artifacts import Iteration, RunDir
from tspin.runs.point import stored
from tspin.tools.spelling import unknown

Told = dict[str, str]
Options = Mapping[str, tuple[str | None, str]]  # key: default (None: must be given), help
RUN = (None, "the folder of a run: runs/NAME")
ITERATION = ("last", "best (by held-out prompts), last, or a number")


def answer(
    verb: str,
    about: str,
    options: Options,
    arguments: Sequence[str],
    act: Callable[[Told], None],
) -> int:
    """Reads the words and acts; what a user can mend ends in one line. -> exit code

    about    what the verb does and, behind an empty line, examples of it
    options  key -> default (None: it must be given; "": nothing), help
    """
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(usage(verb, about, options))
        return 0
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("tspin").setLevel(logging.INFO)
    try:
        act(read(arguments, options))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


def read(arguments: Sequence[str], options: Options) -> Told:
    """The defaults with what is given in their place. ValueError names the nearest option."""
    told = {key: default for key, (default, _) in options.items() if default is not None}
    for word in arguments:
        key, sign, value = word.partition("=")
        if key not in options:
            raise ValueError(unknown(f"option {key}=", f"{key}=", [f"{k}=" for k in options]))
        if not sign:
            raise ValueError(f"{word}: write {key}=VALUE")
        told[key] = value
    for key, (_, what) in options.items():
        if key not in told:
            raise ValueError(f"{key}= is missing: {what}")
    return told


def usage(verb: str, about: str, options: Options) -> str:
    given = [f"{key}=..." for key, (default, _) in options.items() if default is None]
    what, _, examples = about.partition("\n\n")
    lines = [f"usage: python -m tspin {verb} {' '.join(given)} [KEY=VALUE ...]", "", what, ""]
    lines += ["options:"]
    for key, (default, text) in options.items():
        lines.append(f"  {key + '=':<12} {text}{f' (default: {default})' if default else ''}")
    return "\n".join([*lines, "", "examples:", examples]) + "\n"


def choice(told: Told, key: str, choices: Sequence[str]) -> str:
    """What was typed for `key`, if it is one of the choices."""
    if told[key] not in choices:
        raise ValueError(f"{key}={told[key]}: {unknown('value', told[key], choices)}")
    return told[key]


def opened(word: str) -> tuple[Run, RunDir]:
    """The configuration and the folder of run=WORD."""
    folder = RunDir(Path(word).expanduser())
    point = stored(RunDir(folder.path.absolute()))
    if point is None:
        why = (
            "its config.yaml is of another name or version"
            if folder.config.exists()
            else "a run has a config.yaml"
        )
        raise ValueError(f"run={word} is no run of this version ({why}); python -m tspin status")
    return point.run, folder


def iteration(folder: RunDir, word: str) -> Iteration:
    """The finished iteration that iteration=WORD means: best, last or a number."""
    done = [folder.iteration(t) for t in folder.iterations()]
    if not done:
        raise ValueError(f"{folder.path} has no finished iteration yet; python -m tspin status")
    if word == "last":
        return done[-1]
    if word == "best":
        found = retention.best(done)
        if found is None:
            raise ValueError(
                f"iteration=best: {folder.path} has no held-out prompts to say which is best; "
                "use iteration=last or a number"
            )
        return folder.iteration(found[0])
    by_number = {str(out.t): out for out in done}
    if word not in by_number:
        raise ValueError(
            f"iteration={word} is none of {folder.path}'s; use best, last or one of "
            f"{', '.join(by_number)}"
        )
    return by_number[word]


def weights(folder: RunDir, out: Iteration) -> Path:
    """The checkpoint of an iteration; ValueError names those that are there where it is not."""
    have = [t for t in folder.iterations() if _there(folder.iteration(t))]
    hint = f"weights are there of iteration {', '.join(map(str, have))}" if have else "none are"
    try:
        found = out.weights()
    except ValueError as error:
        raise ValueError(f"{error} ({hint})") from None
    if not found.is_dir():
        raise ValueError(
            f"{found} is not on this disk ({hint}); sync.checkpoints says what a copy holds"
        )
    return found


def _there(out: Iteration) -> bool:
    return out.checkpoint.is_dir() and not out.removed.exists()
