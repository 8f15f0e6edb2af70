"""A template of plain text: a prompt and a response are encoded each by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tspin.data.encoding import Encoder
from tspin.data.templates import TEXT_TEMPLATES, Conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PlainTemplate:
    """Conversations -> ids by one of TEXT_TEMPLATES; the same members as chat.ChatTemplate.

    end_id  EOS, which ends a response
    lead    what stands between prompt and response, as text; it belongs to the response's ids
    """

    depends_on_day = False
    writes_prefix = False  # what the tokenizer puts before a text stands before a prompt
    departure: tuple[str, str] | None = None

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encoder: Encoder, name: str) -> None:
        self.encoder = encoder
        self.text, self.lead = TEXT_TEMPLATES[name].text, TEXT_TEMPLATES[name].separator
        self.end_id: int | None = tokenizer.eos_token_id

    def taken(self, conversation: Conversation) -> Conversation:
        """The same: every message is text before the prompt."""
        return conversation

    def prompt_text(self, conversation: Conversation) -> str:
        parts = [conversation.system] if conversation.system else []
        for user, assistant in conversation.history:
            parts.append(self.text.format(prompt=user) + self.lead + assistant)
        return "\n\n".join([*parts, self.text.format(prompt=conversation.prompt)])

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        return self.encoder.prefix + self.encoder.text(self.prompt_text(conversation))

    def pair_ids(self, conversation: Conversation, answer: str) -> tuple[list[int], list[int]]:
        """Ids of the prompt, and of the response with EOS; [] where it holds no token."""
        ids = self.continued("", self.lead + answer)
        end = [] if self.end_id is None else [self.end_id]
        return self.prompt_ids(conversation), [*ids, *end] if ids else []

    def continued(self, context: str, words: str) -> list[int]:
        """Ids of words behind a context, which no token of theirs reaches into. BadRow"""
        return self.encoder.continued(words)
