"""Counting answers to prompts that have many right ones. No torch."""

from __future__ import annotations

from collections.abc import Hashable, Iterable


def num_distinct(samples: Iterable[tuple[str, Hashable | None]]) -> dict[str, int]:
    """Prompt id -> how many different right answers are among its samples.

    samples  (prompt id, the answer in one spelling for all that say the same, or None if it is
             wrong or did not end by itself); see data.canonical
    Only equal numbers of samples a prompt compare: more samples find more answers.
    """
    found: dict[str, set[Hashable]] = {}
    for prompt_id, answer in samples:
        of_prompt = found.setdefault(prompt_id, set())
        if answer is not None:
            of_prompt.add(answer)
    return {prompt_id: len(answers) for prompt_id, answers in found.items()}
