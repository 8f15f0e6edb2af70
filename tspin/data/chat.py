"""A chat template: where a response stands in its rendering, and which ids that makes.

The prompt is what the template's own rendering of the conversation with its answer has before the
answer; the response is what follows, up to the end of the turn. Both are cut out of that one
rendering, so that an annotated response begins and ends like every sample does, with whatever the
template puts there: white space, a closed thought, a header of its own.
"""

from __future__ import annotations

import re
from datetime import date
from functools import cached_property
from os.path import commonprefix
from typing import TYPE_CHECKING

from tspin.data.cells import BadRow
from tspin.data.encoding import Encoder, unused_characters
from tspin.data.templates import TEXT_TEMPLATES, Conversation, Rendering
from tspin.tools.log import first_line, once

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

OTHERS = f"use another model.template (choices: {', '.join(TEXT_TEMPLATES)})"
# First words of answers, of which a boundary between prompt and response must be independent.
_PROBES = ("Paris", "the", "A", "1", "(", "\u00e9", "\u4f60")
NUM_WORDS = 32  # of the vocabulary, tried beside them
_HELLO = Conversation("Hi")
# What templates ask for today's date, with the date of the run: transformers' own reads the clock.
_OWN_DATE = """\
{% macro strftime_now(format) -%}
{{ dates[format] if format in dates else raise_exception("no date in the form " + format) }}
{%- endmacro +%}"""


class ChatTemplate:
    """Conversations -> ids by the tokenizer's own template.

    end_id  the special token behind an answer. Where the template puts none there, the one that
            begins the next turn, if the model stops at it; else EOS. It ends a response then
    lead    white space before an answer that belongs to the response's ids
    """

    writes_prefix = True  # what the tokenizer puts before a text does not stand before a prompt

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        encoder: Encoder,
        how: Rendering,
        stop_ids: Sequence[int] = (),
    ) -> None:
        if not tokenizer.chat_template:
            raise ValueError(
                f"model.template=chat, but the tokenizer has no chat template; {OTHERS}"
            )
        self.tokenizer, self.encoder, self.how = tokenizer, encoder, how
        self._template = str(tokenizer.get_chat_template())
        self._dates = _dates(self._template, how.day or date.today())
        if self._dates:
            self._template = _OWN_DATE + self._template
        _, behind = self._around(_HELLO)
        end = encoder.first_special(behind)
        own = self._next_turn(stop_ids) if end is None else encoder.rendered(end[0], {})[0]
        self.end_id: int | None = tokenizer.eos_token_id if own is None else own
        self.lead = self._white_space_of_the_response()
        if self.departure is not None:
            once(
                "the chat template has other text before an answer than its generation prompt: "
                "{!r}, not {!r}; the first is trained on and sampled from".format(*self.departure)
            )

    def prompt_text(self, conversation: Conversation) -> str:
        """What stands before a response."""
        return self._cut(self._around(self.taken(conversation))[0])

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """Ids of what stands before a response."""
        stand_ins, conversation, _ = self._hidden(self.taken(conversation))
        return self.encoder.rendered(self._cut(self._around(conversation)[0]), stand_ins)

    def pair_ids(self, conversation: Conversation, answer: str) -> tuple[list[int], list[int]]:
        """Ids of the prompt, and of the response with its end; [] where it holds no token.

        Together they are the first ids of the template's own rendering. BadRow where that cannot
        be cut in two.
        """
        stand_ins, conversation, answer = self._hidden(self.taken(conversation), answer)
        before, behind = self._around(conversation)
        whole = self._text(conversation, answer)
        if not whole.startswith(before):
            # An answer with a thought of its own may replace what stands before the others.
            before = self._text(conversation)
        if not (whole.startswith(before) and whole[len(before) :].endswith(behind)):
            raise BadRow(
                f"the chat template does not show the answer {answer[:40]!r} behind the prompt "
                f"{before[-60:]!r}, but {whole[-120:]!r}; {OTHERS}"
            )
        prompt = self._cut(before)
        stop = len(whole) - len(behind)
        if not whole[len(before) : stop].strip():
            return self.encoder.rendered(prompt, stand_ins), []
        end = self.encoder.first_special(behind)
        stop += 0 if end is None else end.end()
        prompt_ids = self.encoder.rendered(prompt, stand_ins)
        ids = self.encoder.rendered(whole[:stop], stand_ins)
        if ids[: len(prompt_ids)] != prompt_ids:
            raise BadRow(
                f"the tokenizer merges the end of the prompt {prompt[-30:]!r} with the answer "
                f"{answer[:30]!r}; {OTHERS}"
            )
        ids = ids[len(prompt_ids) :]
        if end is None and self.end_id is not None:
            ids = [*ids, self.end_id]
        return prompt_ids, ids

    def continued(self, context: str, words: str) -> list[int]:
        """Ids of words behind a context: those of the whole text behind the context's own."""
        ids = self.encoder.rendered(context, {})
        return self.encoder.rendered(context + words, {})[len(ids) :]

    @cached_property
    def takes_system(self) -> bool:
        """Whether a system message is rendered, neither refused nor left out."""
        mark = next(unused_characters())
        try:
            return mark in self._text(Conversation("Hi", system=mark))
        except BadRow:
            return False

    @cached_property
    def depends_on_day(self) -> bool:
        """Whether the template writes today's date."""
        mark = next(unused_characters())
        dates = dict.fromkeys(self._dates, mark)
        kinds = [_HELLO, Conversation("Hi", "Hi")] if self.takes_system else [_HELLO]
        return any(mark in self._text(conversation, dates=dates) for conversation in kinds)

    def taken(self, conversation: Conversation) -> Conversation:
        """The same without a system message that the template does not take."""
        system = conversation.system
        if not system or self.takes_system:
            return conversation
        match self.how.system:
            case "drop":
                return Conversation(conversation.prompt, None, conversation.history)
            case "merge":
                if not conversation.history:
                    return Conversation(f"{system}\n\n{conversation.prompt}")
                (user, assistant), *later = conversation.history
                history = ((f"{system}\n\n{user}", assistant), *later)
                return Conversation(conversation.prompt, None, history)
        raise BadRow(
            "the chat template takes no system message; use data.system=merge (before the first "
            "user's words), data.system=drop (without it), or leave data.system=error and "
            f"{OTHERS}"
        )

    def _hidden(
        self, conversation: Conversation, answer: str = ""
    ) -> tuple[Mapping[str, str], Conversation, str]:
        """Stand-ins for special tokens that the texts spell, and the texts with them."""
        rounds = [text for pair in conversation.history for text in pair]
        texts = [conversation.prompt, answer, conversation.system or "", *rounds]
        stand_ins, texts = self.encoder.hide_specials(*texts)
        if not stand_ins:
            return {}, conversation, answer
        prompt, answer, system, *rounds = texts
        history = tuple(zip(rounds[::2], rounds[1::2], strict=True))
        return stand_ins, Conversation(prompt, system or None, history), answer

    def _around(self, conversation: Conversation) -> tuple[str, str]:
        """What the template has before and behind an answer."""
        mark = next(unused_characters(*(m["content"] for m in conversation.messages())))
        text = self._text(conversation, mark)
        before, *behind = text.split(mark)
        if len(behind) != 1:
            raise BadRow(
                f"the tokenizer's chat template shows an answer {len(behind)} times, not once: "
                f"{text.replace(mark, '(ANSWER)')[-200:]!r}; {OTHERS}"
            )
        return before, behind[0]

    def _cut(self, before: str) -> str:
        """The prompt, without the white space that tokens of the response begin with."""
        return before.removesuffix(self.lead)

    def _next_turn(self, stop_ids: Sequence[int]) -> int | None:
        """The special token with which a turn behind an answer begins, if it is a stop id."""
        mark = next(unused_characters())
        try:
            text = self._text(Conversation("Hi", history=(("Hi", mark),)))
        except BadRow:  # takes one round alone
            return None
        behind = text.rpartition(mark)[2].lstrip()
        begin = self.encoder.first_special(behind)
        if begin is None or begin.start() > 0:
            return None
        first = self.encoder.rendered(begin[0], {})[0]
        return first if first in stop_ids else None

    def _white_space_of_the_response(self) -> str:
        """White space before an answer that tokenizers merge with its first word."""
        before, _ = self._around(_HELLO)
        blank = len(before) - len(before.rstrip())
        words = [*_PROBES, *self.encoder.words_behind_white_space(NUM_WORDS)]
        for trailing in range(blank + 1):
            prompt = self.encoder.rendered(before[: len(before) - trailing], {})
            wholes = (self.encoder.rendered(before + word, {}) for word in words)
            if all(whole[: len(prompt)] == prompt for whole in wholes):
                return before[len(before) - trailing :]
        raise ValueError(
            f"the tokenizer merges the end of the chat template's prompt {before[-40:]!r} with "
            f"the first word of an answer; {OTHERS}"
        )

    @cached_property
    def departure(self) -> tuple[str, str] | None:
        """How the prompt ends, and how the generation prompt does that others take; None: alike."""
        before, generation = self._around(_HELLO)[0], self._text(_HELLO)
        if before.rstrip() == generation.rstrip():
            return None
        shared = len(commonprefix([before, generation]))
        return before[shared:], generation[shared:]

    def _text(
        self,
        conversation: Conversation,
        answer: str | None = None,
        *,
        dates: Mapping[str, str] | None = None,
    ) -> str:
        """The template's rendering: with an answer whole, without one its generation prompt."""
        messages = conversation.messages()
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        options = dict(self.how.args)
        if self._dates:
            options["dates"] = self._dates if dates is None else dates
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages,
                    chat_template=self._template,
                    tokenize=False,
                    add_generation_prompt=answer is None,
                    **options,
                )
            )
        except Exception as error:  # a template is a program of somebody else's
            raise BadRow(f"the chat template fails: {first_line(error)}; {OTHERS}") from error


def _dates(template: str, day: date) -> dict[str, str]:
    """The day in each form that a template may ask for by strftime_now(FORM); {} where by none."""
    if "strftime_now" not in template:
        return {}
    # Every literal that might be one; behind an odd quote in the template's text, too.
    forms = re.findall(r"""(?=(["'])([^"'{}]*%[^"'{}]*)\1)""", template)
    return {form: day.strftime(form) for _, form in forms}
