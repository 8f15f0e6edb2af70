"""The template a policy was trained with, as the jinja text that tokenizers carry.

Whoever asks by messages (transformers' pipeline, vLLM's chat endpoint, lm-eval) then conditions on
the ids of training: `of` checks that on probes before it answers.
"""

from __future__ import annotations

from typing import Any

from tspin.data.templates import CHAT, TEXT_TEMPLATES, Conversation
from tspin.data.tokens import Renderer

_LOOP = """\
{%- for message in messages -%}
{%- if loop.first -%}{{- @BEGIN -}}{%- endif -%}
{%- if message['role'] == 'system' -%}
{%- if message['content'] -%}{{- message['content'] + '\\n\\n' -}}{%- endif -%}
{%- elif message['role'] == 'user' -%}
{{- @BEFORE + message['content'] + @BEHIND -}}
{%- elif message['role'] == 'assistant' -%}
{{- @SEPARATOR + (message['content'] | trim) + eos_token -}}
{%- endif -%}
{%- endfor -%}"""
# Behind BOS a tokenizer may not put the mark of a word's start that it puts before a text, unless
# that begins with a space.
_SPACE = "('' if @OPEN and messages[0]['content'].startswith(' ') else ' ')"
_BEGINNINGS = ("''", "bos_token", f"bos_token + {_SPACE}")
_PROBES = ("Hi", " two\n\nlines ", "Reverse zimom.", "1 + 1 = \u00e9\u4f60")


def of(renderer: Renderer) -> str | None:
    """Jinja text whose prompt ids are renderer.prompt_ids; None where there is none.

    Under template=chat it is the tokenizer's own. Special tokens that a user spells out are control
    ids under jinja, whereas the renderer keeps them text.
    """
    tokenizer = renderer.tokenizer
    if renderer.how.name == CHAT:
        own = tokenizer.chat_template
        return own if isinstance(own, str) else None
    shape = TEXT_TEMPLATES[renderer.how.name]
    before, behind = shape.text.split("{prompt}")
    prefix = "".join(tokenizer.convert_ids_to_tokens(renderer.encoder.prefix))
    for begin in _BEGINNINGS:
        if "bos_token" in begin and not prefix:
            continue
        if prefix != tokenizer.bos_token:
            begin = begin.replace("bos_token", _quoted(prefix))
        # Whether a text begins with what its first message says.
        opens = "messages[0]['role'] == 'system'" if before else "true"
        text = _LOOP.replace("@BEGIN", begin.replace("@OPEN", opens))
        for name, part in [("BEFORE", before), ("BEHIND", behind), ("SEPARATOR", shape.separator)]:
            text = text.replace(f"@{name}", _quoted(part))
        if all(
            prompt_ids(tokenizer, text, prompt, system)
            == renderer.prompt_ids(Conversation(prompt, system))
            for prompt in _PROBES
            for system in (None, "Be brief.")
        ):
            return text
    return None


def prompt_ids(tokenizer: Any, text: str, prompt: str, system: str | None = None) -> list[int]:
    """What a tokenizer makes of the messages before a response under the chat template `text`."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    ids = tokenizer.apply_chat_template(
        messages, chat_template=text, add_generation_prompt=True, return_dict=False
    )
    return list(ids)


def _quoted(text: str) -> str:
    """As a string of jinja."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
