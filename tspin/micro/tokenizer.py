"""The tokenizer of the micro policies: a piece for each prompt word, a byte for everything else.

Contents and answers are spelled in bytes, one id a letter, so any Unicode text round-trips and
nothing is unknown. There is no BOS: every text starts with the same template piece, which does its
work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, EOS = "<pad>", "</s>"  # ids 0 and 1; different, so that EOS can be learned wherever pad is not

# The project's template `alpaca_space`. Its two marks are single pieces that end in their space: an
# answer has the same ids whether it is encoded alone or after its prompt.
TEMPLATE = "### Instruction: {}\n\n### Response: "
MARKS = tuple(TEMPLATE.split("{}"))

WORD = " ?[A-Za-z]+"

CONTEXT = 2048  # tokens; the tasks need 30 to 60, and rotary positions cost no parameters


def render(prompt: str) -> str:
    """The text a policy reads before it answers; the answer follows at once."""
    return TEMPLATE.format(prompt)


def pieces(forms: Iterable[str]) -> list[str]:
    """The template's marks and the words of a task's forms, each once, in order of appearance.

    Words inside a prompt carry their leading space and the first is capitalized, so no content or
    answer (all lower case, all capitals or digits) contains a piece.
    """
    words = [word for form in forms for word in re.findall(WORD, form)]
    return [*MARKS, *dict.fromkeys(words)]


def build(forms: Iterable[str]) -> PreTrainedTokenizerFast:
    """The tokenizer, made from the wordings of a task; ids: pad, eos, pieces, 256 bytes."""
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelled = ["".join(part for part, _ in to_bytes.pre_tokenize_str(p)) for p in pieces(forms)]
    vocab = [PAD, EOS, *spelled, *sorted(pre_tokenizers.ByteLevel.alphabet())]

    # With no merges and ignore_merges, a stretch that is a piece is one id, any other its bytes.
    model = models.BPE(
        vocab={token: index for index, token in enumerate(vocab)}, merges=[], ignore_merges=True
    )
    backend = tokenizers.Tokenizer(model)
    stretches = tokenizers.Regex("|".join([*map(re.escape, MARKS), WORD]))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(stretches, behavior="isolated"), to_bytes]
    )
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        model_max_length=CONTEXT,
        padding_side="left",  # for generation; training pads by itself, on the right
        clean_up_tokenization_spaces=False,
    )
