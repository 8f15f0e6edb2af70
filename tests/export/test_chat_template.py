"""The chat template that is exported renders the ids of training."""

import pytest
from support.tiny import chat_tokenizer, micro_tokenizer, sentencepiece_like, two_id_tokenizer
from tokenizers.processors import TemplateProcessing

from tspin.data.templates import Conversation
from tspin.data.tokens import Renderer
from tspin.export import chat_template


def with_bos():
    """As Llama: BOS before a text, and the mark of a word's start behind it."""
    tokenizer = sentencepiece_like()
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    return tokenizer


@pytest.mark.parametrize("template", ["alpaca", "alpaca_space", "none"])
@pytest.mark.parametrize(
    "make", [micro_tokenizer, chat_tokenizer, sentencepiece_like, with_bos, two_id_tokenizer]
)
def test_the_chat_template_renders_the_ids_of_training(make, template):
    tokenizer = make()
    renderer = Renderer(tokenizer, template)
    text = chat_template.of(renderer)
    for prompt in ["Hi", " What's\n\nthe 'matter'? \\n", "{{ 7 * 7 }} {% if %}", "\u00e9\u4f60"]:
        for system in [None, "Be brief."]:
            ours = renderer.prompt_ids(Conversation(prompt, system))
            assert chat_template.prompt_ids(tokenizer, text, prompt, system) == ours


def test_under_chat_it_is_the_tokenizers_own():
    tokenizer = chat_tokenizer()
    assert chat_template.of(Renderer(tokenizer, "chat")) == tokenizer.chat_template


@pytest.mark.parametrize("template", ["alpaca_space", "none"])
def test_a_whole_round_is_prompt_and_response(template):
    renderer = Renderer(micro_tokenizer(), template)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " Yes.\n"}]
    ids = renderer.tokenizer.apply_chat_template(
        messages, chat_template=chat_template.of(renderer), return_dict=False
    )
    assert ids == renderer.prompt_ids(Conversation("Hi")) + renderer.response_ids("Yes.")
