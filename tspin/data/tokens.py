"""Templates and encoding: the only road from text to ids.

One renderer serves generation, training, scoring and evaluation. A prompt is encoded once, a
response is encoded once, and a sequence is prompt ids followed by response ids; sampled responses
arrive here as ids and are never decoded and encoded again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
_CONTENT = "\ue000{}\ue001"  # private-use marks that stand for a message inside a chat template


class Renderer:
    """Text -> ids for one tokenizer and one template ("alpaca", "alpaca_space", "chat", "none").

    `stop_ids` are the ids that end a response; `eos_id`, one of them, is appended to annotated
    responses. BOS is put before a prompt if and only if the tokenizer itself does.
    Special tokens spelled out inside a user's text stay text: they never become `control_ids`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        if template == "chat" and not tokenizer.chat_template:
            raise ValueError(
                "model.template=chat, but the tokenizer has no chat template; use "
                "model.template=alpaca (choices: alpaca, alpaca_space, chat, none)"
            )
        self.tokenizer = tokenizer
        self.template = template
        eos_id = tokenizer.eos_token_id
        if eos_id is None:
            raise ValueError("the tokenizer has no EOS token: no response could end")
        self.control_ids = _control_ids(tokenizer)
        self.eos_id: int = self._end_of_turn(eos_id) if template == "chat" else eos_id
        self.stop_ids = sorted({self.eos_id, eos_id})
        # Pads are masked by length, so that EOS may serve where no pad token exists.
        pad = tokenizer.pad_token_id
        self.pad_id: int = self.eos_id if pad is None else pad
        self._bos = [] if template == "chat" else _bos_ids(tokenizer)

    def prompt_ids(self, prompt: str, system: str | None = None) -> list[int]:
        """Ids of everything before the response."""
        if self.template == "chat":
            return self._chat_ids(prompt, system)
        text = TEXT_TEMPLATES[self.template].text.format(prompt=prompt)
        return self._bos + self._encode(f"{system}\n\n{text}" if system else text)

    def cut_prompt(self, prompt_ids: list[int], *, max_length: int) -> list[int]:
        """The end of a prompt that is too long; BOS stays, as no model has seen a text without."""
        if len(prompt_ids) <= max_length:
            return prompt_ids
        bos = prompt_ids[: len(self._bos)][:max_length]
        return bos + prompt_ids[len(prompt_ids) - (max_length - len(bos)) :]

    def response_ids(self, response: str) -> list[int]:
        """Ids of an annotated response, EOS at the end; empty when the text holds no token.

        White space around the response is stripped. Cut it from the end where it is too long: it
        then loses its EOS, which would teach a false stop.
        """
        separator = "" if self.template == "chat" else TEXT_TEMPLATES[self.template].separator
        # Encoded behind a line break, which no tokenizer merges with what follows, so that a
        # SentencePiece model does not put a word-start mark where the template has none.
        anchor = self._encode("\n")
        ids = self._encode("\n" + separator + response.strip())
        if ids[: len(anchor)] != anchor:
            raise ValueError(
                f"the tokenizer merges a line break with what follows: {response[:100]!r}"
            )
        ids = ids[len(anchor) :]
        return [*ids, self.eos_id] if ids else []

    def text(self, response_ids: Sequence[int]) -> str:
        """A response as people read it, without special tokens and surrounding space."""
        return str(self.tokenizer.decode(list(response_ids), skip_special_tokens=True)).strip()

    def _encode(self, text: str) -> list[int]:
        # Not verbose: what is longer than the model takes is cut by us, and counted.
        return self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        )["input_ids"]

    def _chat_ids(self, prompt: str, system: str | None) -> list[int]:
        """The template around the contents. Its control ids are its own, whatever these hold."""
        contents = [prompt] if system is None else [system, prompt]
        pieces = self._pieces(len(contents))
        text = "".join(chain(*zip(pieces, (*contents, ""), strict=True)))
        whole = self._template_ids(text)
        parts = [self._template_ids(piece) for piece in pieces]
        if self._num_control(whole) == sum(map(self._num_control, parts)):
            return whole
        for part, content in zip(parts, contents, strict=False):
            part += self._encode(content)
        return list(chain(*parts))

    def _pieces(self, num_contents: int) -> list[str]:
        """What the chat template has before, between and behind the messages."""
        marks = [_CONTENT.format(i) for i in range(num_contents)]
        pieces = re.split("|".join(marks), self._chat_text(marks))
        if len(pieces) != num_contents + 1:
            raise ValueError(
                "the tokenizer's chat template does not have each message once, in their order; "
                "use another model.template (choices: alpaca, alpaca_space, chat, none)"
            )
        return pieces

    def _template_ids(self, text: str) -> list[int]:
        """Ids of text in which special tokens count."""
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _num_control(self, ids: list[int]) -> int:
        return sum(i in self.control_ids for i in ids)

    def _chat_text(self, contents: list[str], response: str | None = None) -> str:
        roles = ["user"] if len(contents) == 1 else ["system", "user"]
        messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
        if response is not None:
            messages.append({"role": "assistant", "content": response})
        return str(
            self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=response is None
            )
        )

    def _end_of_turn(self, eos_id: int) -> int:
        """The special token that the chat template puts right behind a response."""
        response = _CONTENT.format("response")
        behind = self._chat_text([_CONTENT.format(0)], response).split(response, 1)[1]
        ids = self.tokenizer(behind.lstrip(), add_special_tokens=False)["input_ids"]
        return ids[0] if ids and ids[0] in self.control_ids else eos_id


def _control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of special tokens, those that no attribute of the tokenizer names included."""
    added = tokenizer.added_tokens_decoder.items()
    ids = {*tokenizer.all_special_ids, *(i for i, token in added if token.special)}
    return frozenset(ids - {tokenizer.unk_token_id})  # that one stands for ordinary text


def _bos_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and bos in tokenizer("a")["input_ids"][:1] else []
