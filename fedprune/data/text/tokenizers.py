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
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedprune.config import text_of
from fedprune.errors import ConfigurationError

MAX_WORDS = 2**18
"""Words of a vocabulary; ids of a task."""

PADDING = 0
UNKNOWN = 1
"""The id of words that a vocabulary lacks."""

_FIRST_WORD = 2
_MAX_BYTES = 2**24  # of a vocabulary's file
_WORD = re.compile(r"\w+")

Words = Annotated[
    tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=128)], ...], msgspec.Meta(max_length=MAX_WORDS)
]


class HashedWords(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="hashed-words"):
    """A word's id is 1 + CRC-32 of its UTF-8 bytes modulo `ids` - 1: no vocabulary, and some words share an id."""

    ids: Annotated[int, msgspec.Meta(ge=2, le=MAX_WORDS)] = 4096


class Bytes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="bytes"):
    """An id is 1 + a byte of the text in UTF-8, as it is written."""

    @property
    def ids(self) -> int:
        return 257


class Vocabulary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="vocabulary"):
    """A word's id is 2 + its place among `words`; 1 is that of all others.

    In task.toml the words may stand in a `file` of their own, one a line; the task's bundle holds them.
    """

    words: Words = ()
    file: str | None = None

    def __post_init__(self) -> None:
        if bool(self.words) == (self.file is not None):
            raise ValueError('give either words, or file = "words.txt" with one a line')
        if len(set(self.words)) < len(self.words):
            raise ValueError("a word stands twice in the vocabulary; each word stands once")
        for word in self.words:
            if list(_words(word)) != [word]:
                raise ValueError(
                    f"{word[:40]!r} in the vocabulary is not a word as the tokeniser makes them; write it in lower "
                    "case, without spaces or punctuation"
                )

    @property
    def ids(self) -> int:
        return _FIRST_WORD + len(self.words)


Tokenizer = HashedWords | Bytes | Vocabulary


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


def read_words(path: Path) -> tuple[str, ...]:
    """The words of a vocabulary's file, one a line. Raises `ConfigurationError` for a file that holds no such thing."""
    try:
        with path.open("rb") as file:
            blob = file.read(_MAX_BYTES + 1)
        if len(blob) > _MAX_BYTES:
            raise ConfigurationError(f"{path}: more than {_MAX_BYTES} bytes, no vocabulary; name a shorter one")
        words = tuple(filter(None, map(str.strip, text_of(blob).splitlines())))
        if not 0 < len(words) <= MAX_WORDS:
            raise ConfigurationError(f"{path}: {len(words)} words; put 1 to {MAX_WORDS} there, one a line")
        return Vocabulary(words=words).words
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}; name a file with a word on each line") from error
    except ValueError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _tokens(text: str, length: int, tokenizer: Tokenizer) -> Iterator[int]:
    match tokenizer:
        case Bytes():
            yield from (1 + byte for byte in text[:length].encode(errors="replace"))
        case HashedWords():
            for word in _words(text):
                yield 1 + zlib.crc32(word.encode(errors="replace")) % (tokenizer.ids - 1)
        case Vocabulary():
            places = _places(tokenizer.words)
            for word in _words(text):
                yield places.get(word, UNKNOWN)


def _words(text: str) -> Iterator[str]:
    return (match[0] for match in _WORD.finditer(unicodedata.normalize("NFKC", text).lower()))


@lru_cache(maxsize=1)
def _places(words: tuple[str, ...]) -> dict[str, int]:
    return {word: _FIRST_WORD + place for place, word in enumerate(words)}
