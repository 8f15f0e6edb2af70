"""What a prompt is rendered with: the template, and the conversation that stands in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from tspin.config.run import Run

System = Literal["error", "merge", "drop"]


@dataclass(frozen=True)
class TextTemplate:
    """A template that is plain text: prompt -> text before the response.

    separator  stands between that text and the response and belongs to the RESPONSE's ids, since
               "Response:" + " Dear" and "Response: " + "Dear" are different tokens.
    """

    text: str
    separator: str


TEXT_TEMPLATES = {
    # arXiv 2601.08198; the response begins with the space.
    "alpaca": TextTemplate("### Instruction: {prompt}\n\n### Response:", " "),
    # The official SPIN code: the prompt ends with the space.
    "alpaca_space": TextTemplate("### Instruction: {prompt}\n\n### Response: ", ""),
    "none": TextTemplate("{prompt}", ""),
}
CHAT = "chat"


@dataclass(frozen=True, slots=True)
class Conversation:
    """What stands before a response.

    prompt   the words of the user that are answered
    history  (user, assistant) texts of the rounds before them
    """

    prompt: str
    system: str | None = None
    history: tuple[tuple[str, str], ...] = ()

    def messages(self) -> list[dict[str, str]]:
        """As chat templates take them."""
        turns = [("system", self.system)] if self.system else []
        for user, assistant in self.history:
            turns += [("user", user), ("assistant", assistant)]
        return [{"role": r, "content": c} for r, c in (*turns, ("user", self.prompt))]


@dataclass(frozen=True)
class Rendering:
    """How conversations become text.

    name    of TEXT_TEMPLATES, or "chat": the tokenizer's own
    args    further arguments of a chat template, such as {"enable_thinking": False}
    system  what becomes of a system message that a chat template does not take: an error, text
            before the first user's words, or nothing
    day     what a chat template that writes a date takes for today; None: today
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    system: System = "error"
    day: date | None = None

    @classmethod
    def of(cls, run: Run, day: str | None = None) -> Rendering:
        """A run's. day: ISO date on which its prompts were prepared, where they depend on it"""
        on = None if day is None else date.fromisoformat(day)
        return cls(run.model.template, run.model.template_args, run.data.system, on)
