"""Tokenizers of the kinds that model families have, trained on a few lines in a moment.

Each is saved and loaded like one of the hub: its special tokens are special there, and BOS comes
before a text where the family puts it there.
"""

import json
from collections.abc import Sequence

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

MERGES = 60
MARK = "\u2581"  # stands for a space in SentencePiece's vocabularies
LINES = (
    "The cat sat on the mat, and the dog ran after the cat.",
    "What is the sum of one and two? The answer is three.",
    "You are a helpful assistant. Answer the user in one short sentence.",
    "system user assistant model end start turn think answer",
    "Hello there! How are you today?\n\nI am well, thank you.\n",
    "Thoughts come first.\n\n\nThen the answer, and the end of it.\n\n",
    "12 + 30 = 42, 7 * 6 = 42, and 1999 is a year.",
)
# Words with the space before them, digits one by one, line breaks glued to the signs before them.
MODERN = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(
    special: Sequence[str],
    *,
    eos: str,
    bos: str | None = None,
    pad: str | None = None,
    begins_with: Sequence[str] = (),
    pattern: str | None = MODERN,
    ordinary: Sequence[str] = (),
) -> PreTrainedTokenizerFast:
    """GPT-2's kind: bytes, and merges of them inside the pieces that `pattern` cuts.

    begins_with  special tokens that stand before every text
    pattern      None: GPT-2's own
    ordinary     tokens that are added as special ones are, but count as text
    """
    tokenizer = Tokenizer(models.BPE())
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    cut = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cut, whole])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + MERGES, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    added = [AddedToken(token, special=True, normalized=False) for token in special]
    added += [AddedToken(token, special=False, normalized=False) for token in ordinary]
    return _finished(tokenizer, added, begins_with, eos=eos, bos=bos, pad=pad)


def metaspace(
    special: Sequence[str],
    *,
    eos: str,
    bos: str,
    pad: str | None = None,
    begins_with: Sequence[str] = (),
    word_start: str | None,
    rstrip: Sequence[str] = (),
) -> PreTrainedTokenizerFast:
    """SentencePiece's kind: spaces are marks, what is no piece falls back to bytes.

    word_start  where a mark is put that no space stands for: "always" before every stretch of text
                between special tokens (Llama 2 and its kin), "first" before the whole text alone
                (Mistral since version 3), None (Gemma)
    rstrip      special tokens that swallow the white space behind them
    """
    first = ["<unk>", bos, eos]
    names = [*first, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    # No piece of line breaks holds anything else.
    words = pre_tokenizers.Metaspace(MARK, prepend_scheme="never")
    breaks = pre_tokenizers.Split(Regex(r"\n+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, breaks])
    trainer = trainers.BpeTrainer(
        vocab_size=len(names) + 60 + MERGES, special_tokens=names, show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    # The training made these special, but bytes are ordinary pieces.
    tokenizer = _without_special(tokenizer)
    if word_start == "first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            MARK, prepend_scheme="first", split=False
        )
    else:
        marks = [normalizers.Prepend(MARK)] if word_start == "always" else []
        tokenizer.normalizer = normalizers.Sequence([*marks, normalizers.Replace(" ", MARK)])
        tokenizer.pre_tokenizer = pre_tokenizers.Split(MARK, "merged_with_next")
    stripped = [decoders.Strip(" ", left=1)] if word_start else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), *stripped]
    )
    added = [
        AddedToken(token, special=True, normalized=False, rstrip=token in rstrip)
        for token in (*first, *special)
    ]
    return _finished(tokenizer, added, begins_with, eos=eos, bos=bos, pad=pad, unk="<unk>")


def _without_special(trained: Tokenizer) -> Tokenizer:
    """The same pieces and merges; no piece is an added token."""
    facts = json.loads(trained.to_str())
    facts["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(facts))


def _finished(
    tokenizer: Tokenizer,
    added: Sequence[AddedToken],
    begins_with: Sequence[str],
    **named: str | None,
) -> PreTrainedTokenizerFast:
    """With its added tokens, as transformers has it."""
    tokenizer.add_special_tokens([token for token in added if token.special])
    tokenizer.add_tokens([token for token in added if not token.special])
    if begins_with:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{' '.join(begins_with)} $A",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in begins_with],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        **{f"{name}_token": token for name, token in named.items() if token is not None},
    )
