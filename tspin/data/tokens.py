"""The only road from text to ids, for generation, training, scoring and evaluation alike.

A prompt is encoded once, a response is encoded once, and a sequence is prompt ids followed by
response ids; sampled responses arrive here as ids and are never decoded and encoded again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date
from math import ceil
from typing import TYPE_CHECKING

from tspin.data.cells import BadRow
from tspin.data.chat import ChatTemplate
from tspin.data.encoding import Encoder
from tspin.data.plain import PlainTemplate
from tspin.data.templates import CHAT, Conversation, Rendering

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Renderer:
    """Text -> ids for one tokenizer and one template ("alpaca", "alpaca_space", "none", "chat").

    `stop_ids` are the ids that end a sample: the model's own, given here, EOS, and `eos_id`, which
    ends annotated responses. What the tokenizer puts before a text (BOS, or several ids) stands
    before a prompt of a text template; a chat template writes its own. Special tokens spelled out
    inside a user's text stay text: they never become `control_ids`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rendering: Rendering | str,
        *,
        stop_ids: Iterable[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.how = Rendering(rendering) if isinstance(rendering, str) else rendering
        self.encoder = Encoder(tokenizer)
        self.control_ids = self.encoder.control_ids
        stop_ids, eos_id = [*stop_ids], tokenizer.eos_token_id
        self.form: PlainTemplate | ChatTemplate
        if self.how.name == CHAT:
            self.form = ChatTemplate(tokenizer, self.encoder, self.how, stop_ids)
        else:
            self.form = PlainTemplate(tokenizer, self.encoder, self.how.name)
        end_id = self.form.end_id
        if end_id is None:
            raise ValueError("the tokenizer has no EOS token: no response could end")
        self.eos_id: int = end_id
        self.stop_ids = sorted({end_id, *stop_ids, *([] if eos_id is None else [eos_id])})
        # Pads are masked by length, so that EOS may serve where no pad token exists.
        pad = tokenizer.pad_token_id
        self.pad_id: int = end_id if pad is None else pad

    @property
    def depends_on_day(self) -> bool:
        """Whether prompts hold today's date."""
        return self.form.depends_on_day

    def on(self, day: str | None) -> Renderer:
        """The same where today is that ISO date; None: as it is."""
        if day is None:
            return self
        how = replace(self.how, day=date.fromisoformat(day))
        return Renderer(self.tokenizer, how, stop_ids=self.stop_ids)

    def taken(self, conversation: Conversation) -> Conversation:
        """What of it stands in a prompt: some chat templates take no system message. BadRow"""
        return self.form.taken(conversation)

    def prompt_text(self, conversation: Conversation) -> str:
        """What stands before a response, as text."""
        return self.form.prompt_text(conversation)

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """Ids of everything before the response."""
        return self.form.prompt_ids(conversation)

    def pair_ids(self, conversation: Conversation, response: str) -> tuple[list[int], list[int]]:
        """Ids of everything before an annotated response, and of the response with its end.

        White space around the response is stripped; a response without a token has no ids. Cut it
        from the end where it is too long: it then loses its end, which would teach a false stop.
        BadRow for a text that cannot be rendered.
        """
        return self.form.pair_ids(conversation, response.strip())

    def response_ids(self, response: str) -> list[int]:
        """Ids of a response by itself, as `pair_ids` has them behind an empty prompt."""
        return self.pair_ids(Conversation(""), response)[1]

    def fit(self, conversation: Conversation, *, max_length: int) -> Conversation:
        """The conversation whose prompt has at most `max_length` ids.

        The earliest rounds go first, then the beginning of the user's words: BOS, system message
        and the template's headers stay, as no model has seen a text without. BadRow where these
        alone are too long.
        """
        while (excess := len(self.prompt_ids(conversation)) - max_length) > 0:
            if conversation.history:
                conversation = replace(conversation, history=conversation.history[1:])
                continue
            prompt = self._without_start(conversation.prompt, excess)
            if not prompt:
                length = len(self.prompt_ids(replace(conversation, prompt="")))
                raise BadRow(
                    f"the template and the system message alone have {length} tokens, more than "
                    f"the {max_length} that a prompt may have; use a larger model.max_length or "
                    "model.max_prompt_length"
                )
            conversation = replace(conversation, prompt=prompt)
        return conversation

    def text(self, response_ids: Sequence[int]) -> str:
        """A response as people read it, without special tokens and surrounding space."""
        return str(self.tokenizer.decode(list(response_ids), skip_special_tokens=True)).strip()

    def pieces(self, response_ids: Sequence[int]) -> list[str]:
        """The text that each token of a response adds, special tokens as they are spelt.

        A character of several tokens comes with the last of them. Together they are the decoded
        response, as far as its tokenizer decodes from left to right.
        """
        pieces: list[str] = []
        ids, start, end = list(response_ids), 0, 0  # ids[start:end]: what came last, decoded
        before = ""
        for i in range(len(ids)):
            text = str(self.tokenizer.decode(ids[start : i + 1]))
            if text.endswith("\ufffd") and i + 1 < len(ids):
                pieces.append("")
                continue
            pieces.append(text[len(before) :])
            start, end = end, i + 1
            before = str(self.tokenizer.decode(ids[start:end]))
        return pieces

    def _without_start(self, text: str, num_tokens: int) -> str:
        """The text without its first tokens, or without a like share where their places are
        not known."""
        if not self.tokenizer.is_fast:
            length = len(self.encoder.text(text))
            return text[ceil(len(text) * min(1.0, num_tokens / max(length, 1))) :]
        encoded = self.tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        ends = [end for _, end in encoded["offset_mapping"]]
        # A character of several tokens, or of none, goes whole.
        return text[max(1, ends[min(num_tokens, len(ends)) - 1]) :] if ends else ""
