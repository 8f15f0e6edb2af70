"""One row of annotated data, in any schema people keep such rows in -> a Dialogue.

A row holds a list of turns, or a prompt and a response in columns of their own. Text is taken as it
is: nothing is stripped or normalised.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from tspin.data import turns
from tspin.data.cells import MAX_TEXT, BadRow, kind, text, text_or_none
from tspin.data.turns import Dialogue
from tspin.tools.spelling import unknown

CONVERSATIONS = ("messages", "conversations", "conversation", "dialog", "dialogue")
QUESTIONS = ("prompt", "instruction", "question")
EXTRAS = ("input", "query", "context")  # join the prompt; input or query may be all of it
ANSWERS = ("response", "completion", "output", "answer", "chosen", "annotated")
SYSTEMS = ("system", "system_prompt")
LABELS = ("label", "kto_tag")  # KTO: whether the response is a desirable one
OF_PAIRS = {*CONVERSATIONS, *QUESTIONS, *ANSWERS, "real"}
COLUMNS = {*OF_PAIRS, *EXTRAS}
RENAMED = {*COLUMNS, *SYSTEMS, *LABELS, "history"}  # what data.columns may name

SCHEMAS = (
    f"{' or '.join(CONVERSATIONS[:2])} (lists of turns), or one of {', '.join(QUESTIONS)} (with "
    f"{', '.join(EXTRAS)} and history where there are) and one of {', '.join(ANSWERS)}, or real "
    "(SPIN's own)"
)


def check_columns(columns: Mapping[str, str]) -> None:
    """ValueError for a key of data.columns that is no column of SCHEMAS, with the nearest."""
    for name in columns:
        if name not in RENAMED:
            raise ValueError(unknown(f"column data.columns.{name}", name, RENAMED))


def dialogue(
    row: object, *, first_only: bool, columns: Mapping[str, str] | None = None
) -> Dialogue | None:
    """What a row in any of SCHEMAS holds, or BadRow; None where its label says it is undesirable.

    Columns that are null count as absent: a table that mixes schemas is filled up with nulls.
    first_only  as in turns.read
    columns     name as above -> as this source calls it; of the prompt's and the response's these
                alone are read
    """
    if isinstance(row, BadRow):
        raise row
    if not isinstance(row, Mapping):
        raise BadRow(f"it is not an object but {kind(row)}")
    cells = _Cells(_renamed(row, columns) if columns else row)
    if not _desirable(cells):
        return None
    whole = _dialogue(cells, first_only=first_only)
    opening = whole.rounds[0][0]
    system = whole.system
    for name in SYSTEMS:
        if name in cells and (system is None or system == cells.values[name]):
            system = text_or_none(cells.take(name), name)
    if cells.values.get("prompt") == opening:  # ultrachat and others repeat it there
        cells.take("prompt")
    if sum(map(len, chain(*whole.rounds))) + len(system or "") > MAX_TEXT:
        raise BadRow(_too_long(system, whole))
    return Dialogue(system, whole.rounds, (*cells.unused(), *whole.unused))


def nearest(names: Sequence[str]) -> str:
    """What misspelt columns may be, as a part of a sentence."""
    wanted = {*QUESTIONS, *ANSWERS, *CONVERSATIONS}
    words = filter(str.isidentifier, names)  # and no line that another mark separates
    near = {
        name: difflib.get_close_matches(name.lower(), wanted, n=1, cutoff=0.75) for name in words
    }
    pairs = {matches[0]: name for name, matches in near.items() if matches}
    if not pairs:
        return ""
    meant = ",".join(f"{right}:{name}" for right, name in sorted(pairs.items()))
    return f" (did you mean {', '.join(sorted(pairs))}? data.columns={{{meant}}} says so)"


def _renamed(row: Mapping[Any, object], columns: Mapping[str, str]) -> dict[Any, object]:
    for name in columns.values():
        if name not in row:  # or an empty cell of a table
            near = difflib.get_close_matches(name, [*map(str, row)], n=1)
            raise BadRow(f"it has no {name}{f'; did you mean {near[0]}?' if near else ''}")
    left_out = {*OF_PAIRS, *columns, *columns.values()}
    others = {name: value for name, value in row.items() if name not in left_out}
    return others | {name: row[own] for name, own in columns.items()}


def _too_long(system: str | None, whole: Dialogue) -> str:
    """What of a row has too many characters: a text, or else all of it."""
    parts = {"system": system or "", "prompt": whole.rounds[0][0], "response": whole.rounds[0][1]}
    lengths = {name: len(part) for name, part in parts.items()}
    lengths["conversation"] = sum(map(len, chain(*whole.rounds))) + lengths["system"]
    name = next(name for name, length in lengths.items() if length > MAX_TEXT)
    return f"{name} has {lengths[name]} characters, more than the {MAX_TEXT} that count"


class _Cells:
    """The values of a row that are not null; it knows which of them were taken."""

    def __init__(self, row: Mapping[Any, object]) -> None:
        self.values = {name: value for name, value in row.items() if value is not None}
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def take(self, name: str) -> object:
        self._taken.add(name)
        return self.values.get(name)

    def unused(self) -> list[str]:
        return [str(name) for name in self.values if name not in self._taken]


def _desirable(cells: _Cells) -> bool:
    """False where a label says that the response is none to learn from, as in data for KTO."""
    for name in LABELS:
        value = cells.values.get(name)
        if isinstance(value, str):
            value = {"true": True, "false": False}.get(value.strip().lower())
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and value in (0, 1):
            raise BadRow(
                f"{name}={value} may say whether the response is a good one: write true or false, "
                "or rename the column"
            )
        if isinstance(value, bool):
            cells.take(name)
            return value
    return True


def _dialogue(cells: _Cells, *, first_only: bool) -> Dialogue:
    lists = [name for name in CONVERSATIONS if isinstance(cells.values.get(name), list)]
    lists += [name for name in CONVERSATIONS[:2] if cells.values.get(name, "") != ""]
    # Beside `real` is `generated`: samples of a policy that is not ours.
    lists += ["real"] if isinstance(cells.values.get("real"), list) else []
    if lists:
        return turns.read(cells.take(lists[0]), lists[0], first_only=first_only)
    answer, question = _answer(cells), _question(cells)
    if answer is None or (question is None and not isinstance(cells.values[answer], list)):
        raise BadRow(_unknown(cells, answer))
    response = cells.take(answer)
    if isinstance(response, list) and _is_whole(response, cells, question):
        return turns.read(response, answer, first_only=first_only)
    assert question is not None
    history: list[object] = []
    if isinstance(cells.values[question], list):
        prompt = cells.take(question)
    else:
        prompt, history = _prompt(cells, question), _history(cells)
    if history or isinstance(prompt, list) or isinstance(response, list):
        joined = [*history, *_turns(prompt, "user"), *_turns(response, "assistant")]
        name = " + ".join(["history", question, answer][0 if history else 1 :])
        return turns.read(joined, name, first_only=first_only)
    return Dialogue(None, ((text(prompt, question), text(response, answer)),))


def _is_whole(response: list[object], cells: _Cells, question: str | None) -> bool:
    """Whether a list of turns has the prompt in it, and is not only what comes behind it."""
    prompt = cells.values.get(question) if question is not None else None
    if isinstance(prompt, list):
        whole = bool(prompt) and response[: len(prompt)] == prompt
        if whole and question is not None:
            cells.take(question)
        return whole
    return question is None or turns.has_user(response)


def _turns(value: object, role: str) -> list[object]:
    """A list of turns as it is, a text as one turn."""
    return value if isinstance(value, list) else [{"role": role, "content": value}]


def _answer(cells: _Cells) -> str | None:
    """The column of the response, of which there is one."""
    names = [name for name in ANSWERS if name in cells]
    if len(names) > 1:  # tables fill up with empty texts too
        names = [name for name in names if cells.values[name] != ""] or names[:1]
    if len(names) > 1:
        raise BadRow(
            f"it has {' and '.join(names)}, and one of them is the annotated response: remove or "
            "rename the others"
        )
    return names[0] if names else None


def _question(cells: _Cells) -> str | None:
    """The column of the prompt, or the first one that is all of it."""
    names = [name for name in QUESTIONS if name in cells]
    if len(names) > 1 and "instruction" in names and "output" in cells:
        return "instruction"  # Alpaca's; its `prompt` is a template filled with them
    if len(names) > 1:
        raise BadRow(
            f"it has {' and '.join(names)}, and one of them is the prompt: remove or rename the "
            "others"
        )
    return next((name for name in (*names, "input", "query") if name in cells), None)


def _prompt(cells: _Cells, question: str) -> str:
    """The text of the prompt, and behind it the input it is about."""
    parts: list[str | None] = [text(cells.take(question), question)]
    extras = [name for name in EXTRAS if name in cells.values and name != question]
    parts += [text_or_none(cells.take(name), name) for name in extras]
    return "\n\n".join(filter(None, parts))


def _history(cells: _Cells) -> list[object]:
    """Earlier rounds as turns: pairs of a user's and an assistant's text, or turns already."""
    rounds = cells.take("history")
    if rounds is None or rounds == "":
        return []
    if not isinstance(rounds, list):
        raise BadRow(f"history is not a list of rounds but {kind(rounds)}")
    if all(isinstance(turn, Mapping) for turn in rounds):
        return rounds
    earlier: list[object] = []
    for number, pair in enumerate(rounds, start=1):
        if not (isinstance(pair, list) and len(pair) == 2):
            raise BadRow(f"round {number} of history is no pair [user, assistant]")
        earlier += [*_turns(pair[0], "user"), *_turns(pair[1], "assistant")]
    return earlier


def _unknown(cells: _Cells, answer: str | None) -> str:
    """Why a row has no schema, with the way out."""
    if answer == "chosen":
        return "chosen is a text without a prompt column: split it into prompt and chosen"
    if answer is None and isinstance(cells.values.get("text"), str):
        return "text does not say where its prompt ends: split it into prompt and response"
    names = sorted(map(str, cells.values))
    return f"unknown schema with columns {reprlib.repr(names)}{nearest(names)}; it needs {SCHEMAS}"
