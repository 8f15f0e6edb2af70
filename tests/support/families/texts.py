"""Texts in a family's template: docs/models.md's column of that name, and what others share."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from support.families.folders import FAMILIES
from tspin.data.templates import TEXT_TEMPLATES, Conversation
from tspin.policy import policy

SYSTEMS = (None, "Be brief.", "Think little. /no_think")
HISTORIES = ((), (("Hi there.", "Hello."),))
PROMPTS = (
    "Hello there",
    "  two spaces, then one ",
    "\n\nlines\nand lines.\n",
    "caf\u00e9 \u4f60\u597d \U0001f600",
    "{{ 7 * 7 }} [x] <y> 1 + 1?",
)
RESPONSES = ("Fine.", " Two\n\nparagraphs.\n", "\u00e9t\u00e9 \u4f60", "12", "- a list\n- of two")


class Apart(Exception):
    """What should be equal is not; says where."""


def template(name: str, model: Path) -> str:
    """A prompt's ids and a response's are the first ids of the whole text as its maker has it.

    Of a chat template that is its own rendering of the messages, whatever they hold, with and
    without a system message and a round before.
    """
    renderer = policy.renderer(model, template=FAMILIES[name].template)
    tokenizer = renderer.tokenizer
    chat = FAMILIES[name].chat is not None
    cell = "yes" if chat else "yes (alpaca)"
    for system, history in product(SYSTEMS, HISTORIES) if chat else [(None, ())]:
        for prompt, response in product(PROMPTS, RESPONSES):
            conversation = Conversation(prompt, system, history)
            try:
                prompt_ids, response_ids = renderer.pair_ids(conversation, response)
            except ValueError as error:
                if system is None or "data.system=merge" not in str(error):
                    raise
                cell = "yes; a system message is an error, which names data.system=merge"
                continue
            ours = [*prompt_ids, *response_ids]
            whole = (_chat_ids if chat else _plain_ids)(tokenizer, conversation, response.strip())
            where = f"{response!r} behind {conversation}"
            if renderer.text(response_ids) != response.strip() or ours[-1] != renderer.eos_id:
                raise Apart(f"{where} is {tokenizer.decode(response_ids)!r}")
            if chat and ours == [*whole, renderer.eos_id]:
                end = tokenizer.convert_ids_to_tokens(renderer.eos_id)
                cell = f"yes; the template ends no answer, {end} of the next turn does"
            elif whole[: len(ours)] != ours:
                at = first_apart(ours, whole)
                pieces = tokenizer.convert_ids_to_tokens([ours[at], *whole[at : at + 1]])
                raise Apart(f"{where}: token {at} is {pieces[0]!r}, rendered {pieces[1:]}")
    return cell


def spelt_tokens(name: str, model: Path) -> str:
    """Special tokens that a prompt or a response spells out add no control ids."""
    renderer = policy.renderer(model, template=FAMILIES[name].template)

    def control(prompt: str, response: str) -> list[int]:
        pair = renderer.pair_ids(Conversation(prompt), response)
        return [i for ids in pair for i in ids if i in renderer.control_ids]

    usual = control("a word b", "a word b")
    for token in map(str, renderer.tokenizer.added_tokens_decoder.values()):
        if control(f"a {token} b", "a word b") != usual:
            raise Apart(f"{token!r} in a message is a control token")
        if control("a word b", f"a {token} b") != usual:
            raise Apart(f"{token!r} in a response is a control token")
    return "yes"


def first_apart(ours: list[int], theirs: list[int]) -> int:
    """The first place at which two lists differ, or one of them ends."""
    both = enumerate(zip(ours, theirs, strict=False))
    return next((i for i, (a, b) in both if a != b), min(len(ours), len(theirs)))


def _chat_ids(tokenizer: Any, conversation: Conversation, response: str) -> list[int]:
    messages = [*conversation.messages(), {"role": "assistant", "content": response}]
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)


def _plain_ids(tokenizer: Any, conversation: Conversation, response: str) -> list[int]:
    shape = TEXT_TEMPLATES["alpaca"]
    text = shape.text.format(prompt=conversation.prompt) + shape.separator + response
    return [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
