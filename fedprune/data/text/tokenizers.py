"""Tokenisers: from text to token ids. The same code runs on devices that train and beside the exported model.

Id 0 fills up what is shorter than an example. Words are runs of letters, digits and underscores, in lower case, after
Unicode's compatibility composition (NFKC).
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedprune.data.description import Bytes, HashedWords, Tokenizer, Vocabulary

PADDING = 0
UNKNOWN = 1
"""The id of words that a vocabulary lacks."""

_FIRST_WORD = 2
_WORD = re.compile(r"\w+")
_PIECE = re.compile(r"\S{1,1024}")
"""What is composed at once: of accents alone that takes time that grows with the square of their number."""


def token_ids(text: str, length: int, tokenizer: Tokenizer) -> NDArray[np.int32]:
    """The ids of the first `length` tokens of a text, int32 `[length]`; 0 where there are fewer.

    Example:
        >>> token_ids("It's on!", 6, Vocabulary(words=("it", "on"))).tolist()
        [2, 1, 3, 0, 0, 0]
        >>> token_ids("Ab", 4, Bytes()).tolist()
        [66, 99, 0, 0]
    """
    ids = np.full(length, PADDING, np.int32)
    for place, token in zip(range(length), _tokens(text, length, tokenizer), strict=False):
        ids[place] = token
    return ids


def _tokens(text: str, length: int, tokenizer: Tokenizer) -> Iterator[int]:
    match tokenizer:
        case Bytes():
            yield from (1 + byte for byte in text[:length].encode(errors="replace"))
        case HashedWords():
            for word in words_of(text):
                yield 1 + zlib.crc32(word.encode(errors="replace")) % (tokenizer.ids - 1)
        case Vocabulary():
            places = _places(tokenizer.words)
            for word in words_of(text):
                yield places.get(word, UNKNOWN)


def words_of(text: str) -> Iterator[str]:
    """The words of a text, as they are hashed or looked up."""
    for piece in _PIECE.finditer(text):
        for match in _WORD.finditer(unicodedata.normalize("NFKC", piece[0]).lower()):
            yield match[0]


@lru_cache(maxsize=1)
def _places(words: tuple[str, ...]) -> dict[str, int]:
    return {word: _FIRST_WORD + place for place, word in enumerate(words)}
