"""`python -m tspin chat`: who speaks in it. What is typed and shown: tests/export/test_chat.py."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.tiny import chat_tokenizer, compose, micro_tokenizer, random_policy, sentencepiece_like

from tspin.data.templates import Conversation, Rendering
from tspin.data.tokens import Renderer
from tspin.micro import folder
from tspin.sampling.speaker import CUT, Speaker, _Stream

CFG = compose("decoding.max_new_tokens=12", "model.max_length=112")  # a prompt has 100 tokens


@pytest.fixture
def speaker():
    """A random policy under a chat template."""
    policy = random_policy(dtype=torch.float32, vocab_size=300)
    policy = replace(policy, renderer=Renderer(chat_tokenizer(), "chat"))
    return Speaker("random", Path("runs/x/iter_0/checkpoint"), policy, CFG, system="Be brief.")


def test_policies_take_the_memory_of_sampling_and_no_kernels_of_training():
    """Linear layers in the dtype of the arithmetic, as the run's own sampling has them."""
    cfg = compose("compute.dtype=bfloat16", "compute.kernels=liger", "compute.compile=true")
    policy = Speaker.load("warm", folder("warm"), cfg, Rendering.of(cfg)).policy
    linear = [m for m in policy.model.modules() if type(m) is torch.nn.Linear]
    head = policy.model.get_output_embeddings()
    assert {m.weight.dtype for m in linear if m is not head} == {torch.bfloat16}
    assert policy.compiled is None and not policy.liger


def test_a_conversation_is_rendered_and_cut_as_the_data_is(speaker):
    """By the template, the earliest round first; what no longer fits does not come back."""
    renderer, history, left = speaker.policy.renderer, (), []
    for number in range(5):
        question = speaker.ask(f"Say {number}.")
        whole = Conversation(f"Say {number}.", "Be brief.", history)
        fitting = renderer.fit(whole, max_length=100)
        assert question.conversation == fitting
        assert len(renderer.prompt_ids(fitting)) <= 100
        left.append(question.left)
        answer = speaker.answer(question, seed=number)
        speaker.keep(question, answer)
        history = (*fitting.history, (fitting.prompt, answer.text))
        assert speaker.rounds == history
    assert left[0] == "" and re.fullmatch(r"\d earlier rounds?", left[-1])
    assert 0 < len(speaker.rounds) < 5


def test_an_empty_answer_is_no_round(speaker):
    question = speaker.ask("Hi")
    speaker.keep(question, replace(speaker.answer(question, seed=0), text=""))
    assert speaker.rounds == ()


@pytest.mark.parametrize("engine", ["native", "transformers"])
@pytest.mark.parametrize("seed", [None, 3])
def test_an_answer_comes_token_by_token(speaker, engine, seed):
    """In pieces that are the whole in the end, of the tokens that sampling draws."""
    speaker.cfg = replace(CFG, decoding=replace(CFG.decoding, engine=engine))
    question, pieces = speaker.ask("Hi"), []
    answer = speaker.answer(question, seed=seed, write=pieces.append)
    assert answer == speaker.answer(question, seed=seed)
    assert "".join(pieces) == str(answer) and len(list(filter(None, pieces))) > 3
    assert str(answer).endswith(CUT) == (not answer.ended)


@pytest.mark.parametrize("tokenizer", [micro_tokenizer, sentencepiece_like])
def test_pieces_of_a_text_are_whole_characters(tokenizer):
    """Three bytes of a character come together, and blanks before a word with the word."""
    renderer, pieces = Renderer(tokenizer(), "alpaca"), []
    text = "Dear \u4f60\n  Dear \u4f60"
    ids = renderer.response_ids(text)
    stream = _Stream(renderer, pieces.append)
    for token in ids:
        stream.add(token)
    stream.end(text)
    assert "".join(pieces) == renderer.text(ids) == text
    assert "\ufffd" not in "".join(pieces[:-1]) and len(list(filter(None, pieces))) > 2


def test_a_policy_without_probabilities_is_named_by_its_folder(speaker):
    with torch.no_grad():
        speaker.policy.model.get_input_embeddings().weight.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"^runs/x/iter_0/checkpoint: .*not finite \(nan\)"):
        speaker.answer(speaker.ask("Hi"), seed=0, write=print)
