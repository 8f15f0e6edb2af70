"""The micro task in a world that changes: the same prompts, other right answers from a part on.

Twice half of the families change what they ask for, so that nothing of the first part is right in
the last ones. What they then ask for is what others asked for, or another order of the numbers:
nothing that a policy of this size cannot do. No words or numbers are in two splits, as in `task`.
"""

from __future__ import annotations

from tspin.micro import task
from tspin.micro.task import Operation, num_available, pairs

__all__ = ["CHANGES", "answer", "check", "num_available", "pairs"]


def _same_as(name: str) -> Operation:
    return next(family.answer for family in task.FAMILIES if family.name == name)


# Part -> the families that change there, and what is right for them from then on.
CHANGES: dict[int, dict[str, Operation]] = {
    1: {
        "reverse": _same_as("sort"),
        "sort": _same_as("reverse"),
        "capitals": _same_as("double_last"),
        "double_last": _same_as("capitals"),
    },
    3: {
        "remove_first": _same_as("shift"),
        "shift": _same_as("remove_first"),
        "largest": lambda numbers: str(min(numbers)),
        "order": lambda numbers: task.join(sorted(numbers, reverse=True)),
    },
}


def answer(prompt: str, part: int) -> str:
    """The one right answer to a prompt in a part of the data.

    Raises ValueError for a prompt that is none of the task.
    """
    if (parsed := task.parse(prompt)) is None:
        raise ValueError(f"{prompt!r} is no prompt of the micro task")
    family, content = parsed
    operation = family.answer
    for begins, changed in CHANGES.items():
        if part >= begins:
            operation = changed.get(family.name, operation)
    return operation(content)


def check(prompt: str, response: str, part: int) -> bool:
    """Whether the response, stripped, is exactly what is right in that part."""
    return response.strip() == answer(prompt, part)
