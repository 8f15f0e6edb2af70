"""Text -> ids with one tokenizer, where special tokens that a user spells out stay text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from tspin.data.cells import BadRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WHITE_SPACE = " \n\u2581\u0120\u010a"  # as vocabularies spell it: SentencePiece, byte level
_ANCHORS = "\na.0"  # a line break first, which no usual tokenizer merges with a word
_PRIVATE_USE = range(0xE000, 0xF900)


class Encoder:
    """Encodes text of users, in which nothing is special, and text that a template put together.

    control_ids  ids of special tokens, those that no attribute of the tokenizer names included
    prefix       ids that the tokenizer itself puts before a text: BOS, or several (GLM)
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        ids = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
        self._specials = {str(tokenizer.convert_ids_to_tokens(i)): i for i in ids}
        ends = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        # A token for what is unknown stands for ordinary text, unless it serves as another, too.
        self.control_ids = frozenset(ids - ({tokenizer.unk_token_id} - ends))
        self.prefix = self._prefix()

    def text(self, text: str) -> list[int]:
        """Ids of text in which no special token counts."""
        # A unigram model has special tokens among its pieces and takes them where they are spelt:
        # each is cut behind its first character.
        cuts = [match.start() + 1 for match in self._in_text.finditer(text)]
        first, *others = (text[i:j] for i, j in pairwise([0, *cuts, len(text)]))
        ids = self._unsplit(first)
        for other in others:
            ids += self._behind(other)
        return ids

    def continued(self, text: str) -> list[int]:
        """Ids of text that does not begin the sequence: without a mark of a text's own start.

        BadRow where the tokenizer merges whatever stands before with what follows.
        """
        return self._behind(text, self.text)

    def _behind(self, text: str, encode: Callable[[str], list[int]] | None = None) -> list[int]:
        """Encoded behind a character that the tokenizer does not merge with the first one."""
        encode = encode or self._unsplit
        for before, anchor in self._anchors:
            ids = encode(before + text)
            if ids[: len(anchor)] == anchor:
                return ids[len(anchor) :]
        raise BadRow(f"the tokenizer merges what stands before with {text[:100]!r}")

    def _unsplit(self, text: str) -> list[int]:
        # Not verbose: what is longer than the model takes is cut by us, and counted.
        return self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        )["input_ids"]

    def rendered(self, text: str, stand_ins: Mapping[str, str]) -> list[int]:
        """Ids of what a template put together, in which special tokens count.

        stand_ins  from `hide_specials`: what its characters stand for is text
        """
        if not stand_ins:
            return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        back = str.maketrans(dict(stand_ins))
        ids: list[int] = []
        for place, piece in enumerate(self._in_template.split(text)):
            if place % 2:
                ids.append(self._specials[piece.strip()])
            elif piece:
                piece = piece.translate(back)
                ids += self.continued(piece) if ids else self.text(piece)
        return ids

    def hide_specials(self, *texts: str) -> tuple[dict[str, str], list[str]]:
        """The texts with a character of private use for each special token that they spell.

        -> what each of those characters stands for, {} nearly always, and the texts
        """
        words = sorted({word for text in texts for word in self._in_text.findall(text)})
        if not words:
            return {}, [*texts]
        unused = unused_characters(*texts)
        stand_ins = dict(zip(unused, words, strict=False))
        hidden = {word: character for character, word in stand_ins.items()}
        return stand_ins, [self._in_text.sub(lambda match: hidden[match[0]], t) for t in texts]

    def words_behind_white_space(self, num: int) -> list[str]:
        """The first words of the vocabulary that are one token with a space or line break."""
        vocabulary = self.tokenizer.get_vocab()
        joined = (token for token in sorted(vocabulary, key=vocabulary.__getitem__) if token[1:])
        words = (token[1:] for token in joined if token[0] in _WHITE_SPACE)
        return list(islice((word for word in words if word.isascii() and word.isalnum()), num))

    def first_special(self, text: str) -> re.Match[str] | None:
        """The first special token of a text."""
        return self._in_text.search(text)

    @cached_property
    def _anchors(self) -> list[tuple[str, list[int]]]:
        return [(before, self._unsplit(before)) for before in _ANCHORS]

    @cached_property
    def _in_text(self) -> re.Pattern[str]:
        longest_first = sorted(self._specials, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    @cached_property
    def _in_template(self) -> re.Pattern[str]:
        """One group: a special token, with the white space that it takes in beside it."""
        added = self.tokenizer.added_tokens_decoder
        patterns = []
        for word in sorted(self._specials, key=len, reverse=True):
            token = added.get(self._specials[word])
            left = r"\s*" if token is not None and token.lstrip else ""
            right = r"\s*" if token is not None and token.rstrip else ""
            patterns.append(left + re.escape(word) + right)
        return re.compile(f"({'|'.join(patterns) or '(?!)'})")

    def _prefix(self) -> list[int]:
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = self.tokenizer("a")["input_ids"]
        starts = (i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        return list(whole[: next(starts, 0)])


def unused_characters(*texts: str) -> Iterator[str]:
    """Characters of Unicode's private use that are in none of the texts."""
    return (c for c in map(chr, _PRIVATE_USE) if not any(c in text for text in texts))
