"""The ``[data]`` table as it stands in task.toml, where the words of a vocabulary may have a file of their own."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fedprune.config import from_table, read_table, text_of
from fedprune.data.description import MAX_WORDS, Arrays, Data, Text, Vocabulary
from fedprune.data.text.tokenizers import words_of
from fedprune.errors import ConfigurationError

_MAX_BYTES = 2**24  # of a vocabulary's file


class _Described(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    data: Data = Arrays()


def load_description(task_toml: Path) -> Data:
    """The ``[data]`` table of a task.toml, whose words are read. Raises `ConfigurationError`."""
    table = {key: value for key, value in read_table(task_toml).items() if key == "data"}
    return with_words(from_table(table, _Described, str(task_toml)).data, task_toml.parent)


def with_words(data: Data, base: Path) -> Data:
    """The description with the words of its vocabulary in the place of their file, whose path is relative to `base`.

    Raises `ConfigurationError` where the file cannot be used, or the tokeniser never makes such a word.
    """
    if not isinstance(data, Text) or not isinstance(data.tokenizer, Vocabulary):
        return data
    origin, words = "data.tokenizer.words", data.tokenizer.words
    if data.tokenizer.file is not None:
        origin, words = str(base / data.tokenizer.file), _read_words(base / data.tokenizer.file)
    for word in words:
        if list(words_of(word)) != [word]:
            raise ConfigurationError(
                f"{origin}: {word[:40]!r} is not a word as the tokeniser makes them; write it in lower case, without "
                "spaces or punctuation"
            )
    try:
        return msgspec.structs.replace(data, tokenizer=Vocabulary(words=words))
    except ValueError as error:
        raise ConfigurationError(f"{origin}: {error}") from error


def _read_words(path: Path) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            blob = file.read(_MAX_BYTES + 1)
        words = tuple(filter(None, map(str.strip, text_of(blob).splitlines())))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}; name a file with a word on each line") from error
    except UnicodeError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if len(blob) > _MAX_BYTES or not 0 < len(words) <= MAX_WORDS:
        raise ConfigurationError(
            f"{path}: {len(words)} words in {len(blob)} bytes; put 1 to {MAX_WORDS} there, one a line, in at most "
            f"{_MAX_BYTES} bytes"
        )
    return words
