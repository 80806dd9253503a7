"""Sentences about one of four topics, in a language that is made here, as lines of JSONL files."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

TOPICS = ("weather", "music", "food", "sport")
LENGTH = 16
"""Words of the longest sentence."""
IDS = 512
"""Of the tokeniser, which hashes some 200 words."""

_SHORTEST = 8
_TOPIC_WORDS, _COMMON_WORDS = 40, 60
_ABOUT, _ASTRAY = 0.34, 0.06
"""How often a word is one of the sentence's topic, and how often one of another topic."""
_LANGUAGE = 20_261_126
"""Seeds the words: they are the same whoever writes."""

DATA = f"""\
form = "text"
text = "sentence"
label = "topic"
labels = {list(TOPICS)}
length = {LENGTH}
tokenizer = {{ kind = "hashed-words", ids = {IDS} }}
"""
"""The ``[data]`` table of a task that reads them."""


class Sentence(msgspec.Struct, frozen=True):
    """A line of a file."""

    sentence: str
    topic: str


def written(seed: int, count: int) -> list[Sentence]:
    """`count` sentences, as many of each topic as there can be; of some, more words are of another topic. Equal seeds
    give equal sentences.
    """
    random = np.random.default_rng(seed)
    words = _words()
    topics = random.permutation(np.arange(count) % len(TOPICS))
    return [Sentence(_sentence(int(topic), words, random), TOPICS[topic]) for topic in topics]


def write_sentences(path: Path, sentences: list[Sentence]) -> None:
    path.write_bytes(msgspec.json.Encoder().encode_lines(sentences))


def _sentence(topic: int, words: list[str], random: np.random.Generator) -> str:
    length = int(random.integers(_SHORTEST, LENGTH + 1))
    return " ".join(_word(topic, words, random) for _ in range(length))


def _word(topic: int, words: list[str], random: np.random.Generator) -> str:
    kind = random.random()
    if kind >= _ABOUT + _ASTRAY:
        return words[-1 - int(random.integers(_COMMON_WORDS))]
    other = 0 if kind < _ABOUT else int(random.integers(1, len(TOPICS)))
    return words[(topic + other) % len(TOPICS) * _TOPIC_WORDS + int(random.integers(_TOPIC_WORDS))]


def _words() -> list[str]:
    """Those of each topic, one topic after another, and those that mean nothing."""
    random = np.random.default_rng(_LANGUAGE)
    found = dict[str, None]()
    while len(found) < len(TOPICS) * _TOPIC_WORDS + _COMMON_WORDS:
        found["".join(random.choice(list(letters)) for letters in ("bdfgklmnprstvz", "aeiou") * 2)] = None
    return list(found)
