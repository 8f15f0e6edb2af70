"""A policy in a conversation: what it reads, what it answers token by token, what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tspin.config.run import Run
from tspin.data.templates import Conversation, Rendering
from tspin.data.tokens import Renderer
from tspin.data.turns import Round
from tspin.sampling.requests import Request

if TYPE_CHECKING:
    from tspin.policy.policy import Policy

CUT = " ..."  # behind an answer that ended at its length limit
Write = Callable[[str], object]


@dataclass(frozen=True)
class Question:
    """What a policy reads: of a conversation what fits, and in words what did not."""

    conversation: Conversation
    left: str


@dataclass(frozen=True)
class Answer:
    """text: of the response; ended: whether the policy ended it, and not its length limit"""

    text: str
    ended: bool

    def __str__(self) -> str:
        return self.text + ("" if self.ended else CUT)


@dataclass
class Speaker:
    """A policy of a run, and its side of a conversation.

    name    for people
    folder  of its weights
    rounds  of the conversation so far, as far as they still fit
    """

    name: str
    folder: Path
    policy: Policy
    cfg: Run
    system: str | None = None
    rounds: tuple[Round, ...] = ()

    @staticmethod
    def load(name: str, folder: Path, cfg: Run, rendering: Rendering) -> Speaker:
        from tspin.policy import policy  # here: --help needs no torch

        loaded = policy.load_to_infer(
            folder, template=rendering, compute=cfg.compute, precision=cfg.optim.precision
        )
        return Speaker(name, folder, loaded, cfg)

    def ask(self, prompt: str) -> Question:
        """The prompt behind the rounds so far, the earliest of which go where all is too long.

        BadRow where the template does not take it.
        """
        whole = Conversation(prompt, self.system, self.rounds)
        fitting = self.policy.renderer.fit(whole, max_length=self.cfg.max_prompt_length)
        rounds = len(whole.history) - len(fitting.history)
        left = [f"{rounds} earlier round{'s' * (rounds > 1)}"] * (rounds > 0)
        left += ["the beginning of the prompt"] * (fitting.prompt != prompt)
        return Question(fitting, " and ".join(left))

    def answer(self, question: Question, *, seed: int | None, write: Write | None = None) -> Answer:
        """As the run samples. Nothing of it is kept.

        seed   of the draw; None: greedy
        write  gets the answer in pieces, as its tokens come
        ValueError, with the folder, for a policy whose logits are not finite.
        """
        from tspin.policy import finite
        from tspin.sampling.native import respond

        renderer, decoding = self.policy.renderer, self.cfg.decoding
        request = Request(renderer.prompt_ids(question.conversation), seed, decoding.temperature)
        stream = None if write is None else _Stream(renderer, write)
        token = None if stream is None else stream.add
        with finite.named(self.folder):
            (ids,) = respond(self.policy, [request], decoding, token=token)
        answer = Answer(renderer.text(ids), ids[-1] in renderer.stop_ids)
        if stream is not None:
            stream.end(str(answer))
        return answer

    def keep(self, question: Question, answer: Answer) -> None:
        """Their round is part of the conversation from now on; an empty answer makes none."""
        asked = question.conversation
        self.rounds = asked.history
        if answer.text:
            self.rounds = (*asked.history, (asked.prompt, answer.text))


class _Stream:
    """The text of a response as its tokens come: in the end, what `Renderer.text` makes of them.

    All of them are decoded anew each time: a token may be a part of a character, and how a word is
    written depends on what is before it.
    """

    def __init__(self, renderer: Renderer, write: Write) -> None:
        self._renderer, self._write = renderer, write
        self._ids: list[int] = []
        self._written = ""

    def add(self, token: int) -> None:
        self._ids.append(token)
        text = self._renderer.text(self._ids).rstrip("\ufffd")  # a character that is not whole yet
        if text.startswith(self._written):
            self._write(text.removeprefix(self._written))
            self._written = text

    def end(self, text: str) -> None:
        """What is not written yet of the whole text."""
        if text.startswith(self._written):
            self._write(text.removeprefix(self._written))
        else:  # a tokenizer that goes back to what it has written
            self._write(f"\n{text}")
