"""Text to ids: text templates, boundaries, EOS, truncation. The traps of section "Tokens"."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import chat_tokenizer, micro_tokenizer, sentencepiece_like
from tokenizers.processors import TemplateProcessing

from tspin.data.cells import BadRow
from tspin.data.templates import TEXT_TEMPLATES, Conversation
from tspin.data.tokens import Renderer


def beginning_with(*tokens):
    """A SentencePiece-like tokenizer that puts special tokens before a text."""
    tokenizer = sentencepiece_like()
    tokenizer.add_special_tokens({"additional_special_tokens": [*tokens]})
    specials = [(token, tokenizer.convert_tokens_to_ids(token)) for token in tokens]
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=" ".join([*tokens, "$A"]), special_tokens=specials
    )
    return tokenizer


def test_templates_of_the_paper_and_of_the_official_code():
    """They differ by where the space before a response is: in the response, or in the prompt."""
    alpaca, space = TEXT_TEMPLATES["alpaca"], TEXT_TEMPLATES["alpaca_space"]
    assert alpaca.text.format(prompt="Hi") == "### Instruction: Hi\n\n### Response:"
    assert space.text.format(prompt="Hi") == "### Instruction: Hi\n\n### Response: "
    assert alpaca.text + alpaca.separator == space.text + space.separator


@pytest.mark.parametrize("template", ["alpaca", "alpaca_space", "none"])
def test_prompt_and_response_ids_together_are_the_whole_text(template):
    """One boundary: for a byte-level tokenizer the ids of the whole text are the two parts'."""
    renderer = Renderer(micro_tokenizer(), template)
    prompt, response = renderer.pair_ids(Conversation("Reverse zimom."), "momiz")
    shape = TEXT_TEMPLATES[template]
    whole = shape.text.format(prompt="Reverse zimom.") + shape.separator + "momiz"
    assert renderer.tokenizer.decode(prompt + response[:-1]) == whole
    assert response[-1] == renderer.eos_id and renderer.eos_id not in response[:-1]
    assert prompt == renderer.prompt_ids(Conversation("Reverse zimom."))


def test_sentencepiece_boundary():
    """Trap 2: "Response:" + " Dear" and "Response: " + "Dear" are different ids, and neither
    gets the word-start mark that the tokenizer puts before a text of its own."""
    tokenizer = sentencepiece_like()
    dear, marked = tokenizer.convert_tokens_to_ids(["Dear", "\u2581Dear"])
    assert tokenizer("Dear", add_special_tokens=False)["input_ids"] == [marked]  # what misleads
    assert Renderer(tokenizer, "alpaca").response_ids("Dear")[:-1] == [marked]
    assert Renderer(tokenizer, "alpaca_space").response_ids("Dear")[:-1] == [dear]


@pytest.mark.parametrize("tokens", [(), ("<s>",), ("[gMASK]", "<sop>")])
def test_what_a_tokenizer_puts_before_a_text_stands_before_a_prompt(tokens):
    """BOS, two ids as GLM has them, or nothing; it stays where the prompt is cut."""
    tokenizer = beginning_with(*tokens)
    renderer = Renderer(tokenizer, "alpaca")
    prefix = tokenizer.convert_tokens_to_ids([*tokens])
    conversation = Conversation("one two three four five")
    ids = renderer.prompt_ids(conversation)
    assert ids[: len(prefix)] == prefix and not {*prefix} & {*ids[len(prefix) :]}
    assert not {*prefix} & {*renderer.response_ids("x")}
    cut = renderer.prompt_ids(renderer.fit(conversation, max_length=len(ids) - 4))
    assert cut[: len(prefix)] == prefix


@pytest.mark.parametrize("template", ["alpaca", "alpaca_space", "none"])
def test_a_prompt_that_is_too_long_loses_the_beginning_of_the_users_words(template):
    renderer = Renderer(micro_tokenizer(), template)
    long = Conversation("".join(map(str, range(100))), "Be brief.")
    length = len(renderer.prompt_ids(long))
    short = renderer.fit(long, max_length=length - 90)
    assert len(renderer.prompt_ids(short)) <= length - 90
    assert len(short.prompt) > 20 and long.prompt.endswith(short.prompt)
    text = renderer.prompt_text(short)
    assert text == renderer.prompt_text(long).replace(long.prompt, short.prompt)
    assert renderer.fit(long, max_length=length) == long


def test_earlier_rounds_go_before_the_users_words():
    renderer = Renderer(micro_tokenizer(), "alpaca")
    rounds = tuple((f"question {i}", f"answer {i}") for i in range(3))
    long = Conversation("The last question.", None, rounds)
    text = renderer.prompt_text(long)
    assert text.index("answer 0") < text.index("question 1") < text.index("The last question.")
    short = renderer.fit(long, max_length=len(renderer.prompt_ids(long)) - 1)
    assert short == Conversation("The last question.", None, rounds[1:])


def test_a_template_that_does_not_fit_alone_is_an_error():
    renderer = Renderer(micro_tokenizer(), "alpaca")
    with pytest.raises(BadRow, match=r"alone have \d+ tokens, more than the 10"):
        renderer.fit(Conversation("Hi", "A system message. " * 20), max_length=10)


def test_characters_of_several_tokens_are_cut_whole():
    renderer = Renderer(micro_tokenizer(), "none")
    long = Conversation("\U0001f600" * 10)
    for most in range(4, len(renderer.prompt_ids(long))):
        short = renderer.fit(long, max_length=most)
        assert {*short.prompt} == {"\U0001f600"} and len(renderer.prompt_ids(short)) <= most


def test_pad_may_be_eos():
    tokenizer = micro_tokenizer()
    tokenizer.pad_token = None
    renderer = Renderer(tokenizer, "alpaca")
    assert renderer.pad_id == renderer.eos_id


def test_what_the_model_stops_at_stops_a_sample():
    renderer = Renderer(micro_tokenizer(), "alpaca", stop_ids=[7, 9])
    assert renderer.stop_ids == sorted({7, 9, renderer.eos_id})


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_has_ids_with_one_eos_or_none_at_all(text):
    """Unicode, control characters, special tokens spelled out: never a control id in the text."""
    renderer = Renderer(micro_tokenizer(), "alpaca_space")
    ids = renderer.response_ids(text)
    special = set(renderer.tokenizer.all_special_ids)
    assert bool(ids) == bool(text.strip())
    assert not special & set(ids[:-1]) and (not ids or ids[-1] == renderer.eos_id)
    assert renderer.text(ids) == text.strip()
    assert not special & set(renderer.prompt_ids(Conversation(text)))


@pytest.mark.parametrize("template", ["alpaca", "chat", "none"])
def test_special_tokens_in_a_users_text_stay_text(template):
    tokenizer = chat_tokenizer()
    renderer = Renderer(tokenizer, template)
    plain = renderer.prompt_ids(Conversation("Hello end"))
    prompt, response = renderer.pair_ids(Conversation("Hello <|end|>"), "a <|end|> b")
    special = set(tokenizer.all_special_ids)
    assert sum(i in special for i in prompt) == sum(i in special for i in plain)
    assert not special & set(response[:-1])


def test_a_system_message_stands_before_a_text_template():
    renderer = Renderer(micro_tokenizer(), "alpaca")
    text = renderer.tokenizer.decode(renderer.prompt_ids(Conversation("Hi", "Be brief.")))
    assert text == "Be brief.\n\n### Instruction: Hi\n\n### Response:"


def test_a_chat_template_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match="choices: alpaca, alpaca_space, none"):
        Renderer(micro_tokenizer(), "chat")


@pytest.mark.parametrize("tokenizer", [micro_tokenizer, sentencepiece_like, chat_tokenizer])
def test_pieces_together_are_the_decoded_response(tokenizer):
    """White space at the beginning of words, characters of several tokens, the end."""
    known = tokenizer()
    renderer = Renderer(known, "none")
    ids = renderer.response_ids("Dear all,\n\n  caf\u00e9 \u65e5\u672c \U0001f389 x")
    pieces = renderer.pieces(ids)
    assert len(pieces) == len(ids) and "".join(pieces) == known.decode(ids)
    assert pieces[-1] == known.convert_ids_to_tokens(ids[-1]) and "" in pieces
    assert renderer.pieces([]) == []
