"""`tspin completion`: what makes bash, zsh or fish complete verbs, groups, options and keys.

The shell asks the command itself, which reads names of files in conf/ and composes nothing.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from tspin.cli import arguments as overrides
from tspin.cli.arguments import SINGLE
from tspin.cli.folders import CONF, SWEEPS
from tspin.cli.options import Parser
from tspin.config.load import keys

SHELLS = {
    "bash": """_tspin() {
    local line="${COMP_LINE:0:COMP_POINT}" words
    read -ra words <<< "${line#* }"
    [[ "$line" == *" " ]] && words+=("")
    mapfile -t COMPREPLY < <(tspin completion words "${words[@]}" 2>/dev/null)
    local word="${words[-1]}" # of which bash takes only what is behind = for the word
    [[ "$word" == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}")
    [[ "${COMPREPLY[0]}" == *= ]] && compopt -o nospace
}
complete -o default -F _tspin tspin
""",
    "zsh": """#compdef tspin
_tspin() {
    local -a replies
    replies=("${(@f)$(tspin completion words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    compadd -S '' -a replies || _files
}
compdef _tspin tspin
""",
    "fish": """complete -c tspin -f -a \\
    '(tspin completion words (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
""",
}
QUERY = "words"
OF_RUNS = ("run", "plan")  # verbs that take overrides


def main(arguments: Sequence[str]) -> None:
    if arguments and arguments[0] == QUERY:
        sys.stdout.write("".join(f"{word}\n" for word in complete(arguments[1:])))
        return
    parser = Parser(
        "completion",
        "SHELL",
        about="Prints what makes a shell complete verbs, groups, options and keys.",
        examples="  python -m tspin completion bash >> ~/.bashrc\n"
        "  python -m tspin completion fish > ~/.config/fish/completions/tspin.fish",
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    sys.stdout.write(SHELLS[parser.parse_args(arguments).shell])


def complete(words: Sequence[str]) -> list[str]:
    """What may stand in place of the last of `words`, those behind `tspin`."""
    *before, word = words or [""]
    if not before:
        verbs = importlib.import_module("tspin.__main__").VERBS  # by name, as it imports this
        return [verb for verb in verbs if verb.startswith(word)]
    if before[0] not in OF_RUNS:
        return []
    name, equals, value = word.partition("=")
    start, comma, last = value.rpartition(",")
    if equals:
        options = overrides.sweep_names(SWEEPS) if name == "sweep" else _options(name)
        return [f"{name}={start}{comma}{option}" for option in options if option.startswith(last)]
    return [f"{choice}=" for choice in _keys() if choice.startswith(word)]


def _keys() -> list[str]:
    groups = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra"}
    return sorted({*groups, "sweep", *SINGLE, *keys()})


def _options(group: str) -> list[str]:
    known = group and (CONF / group).is_dir() and not Path(group).is_absolute()
    return sorted(overrides.options(group, CONF)) if known else []
