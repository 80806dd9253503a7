"""Texts in CSV and JSONL files, and the tokenisers that make ids of them."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.data import load_examples, most_examples
from fedprune.data.description import Bytes, HashedWords, Text, Tokenizer, Vocabulary
from fedprune.data.text.tokenizers import token_ids
from fedprune.errors import DataError

_WORDS = Vocabulary(words=("good", "bad"))
_TEXT = Text(text="review", label="mood", length=4, tokenizer=_WORDS, labels=("sad", "glad"))


def _written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.csv", 'mood,review\nglad,"Good, GOOD!"\nsad,so bad it is good\n'),
        (
            "d.jsonl",
            '{"review": "Good, GOOD!", "mood": "glad"}\n\n{"mood": "sad", "review": "so bad it is good", "n": 3}',
        ),
    ],
)
def test_texts_become_ids_and_zeros_fill_up(tmp_path: Path, name: str, content: str) -> None:
    path = _written(tmp_path / name, content)
    data = load_examples(path, _TEXT)
    assert (data.x.dtype, data.y.dtype) == (np.int32, np.int64)
    assert data.x.tolist() == [[2, 2, 0, 0], [1, 3, 1, 1]]
    assert data.y.tolist() == [1, 0]
    assert most_examples(path) >= 2


def test_labels_that_are_no_strings_in_json_are_taken_as_they_are_written(tmp_path: Path) -> None:
    path = _written(tmp_path / "d.jsonl", '{"review": "a", "mood": 1}\n{"review": "b", "mood": true}\n')
    text = Text(text="review", label="mood", length=1, tokenizer=Bytes(), labels=("true", "1"))
    assert load_examples(path, text).y.tolist() == [1, 0]
    numbers = Text(text="review", label="mood", length=1, tokenizer=Bytes())
    assert load_examples(_written(path, '{"review": "a", "mood": 0.5}'), numbers).y.tolist() == [[0.5]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "1 lines that hold no JSON object with the task's fields skipped"),
        (b"[1]", "1 lines that hold no JSON object with the task's fields skipped"),
        (b'{"mood": "sad"}', "it has no field 'review'"),
        (b'{"mood": "sad", "review": {}}', "holds no text or number in field 'review'"),
        (b'{"mood": "sad", "review": "\xff"}', "line"),
        (b'{"mood": "sad", "review": " "}', "1 rows with an empty cell skipped"),
        (b'{"mood": "so-so", "review": "x"}', "'so-so' is none of the task's (sad, glad)"),
        (b"[" * 50_000, "1 lines that hold no JSON object"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_counted_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, line: bytes, said: str
) -> None:
    good = b'{"mood": "sad", "review": "x"}\n'
    assert len(load_examples(_written(tmp_path / "d.jsonl", good + line + b"\n" + good), _TEXT)) == 2
    (said_line,) = caplog.messages
    assert "the first is d.jsonl, line 2: " in said_line
    assert said in said_line


def test_text_that_is_not_utf_8_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _written(tmp_path / "d.csv", b"mood,review\nsad,caf\xe9\nsad,caf\xc3\xa9\n")
    assert len(load_examples(path, _TEXT)) == 1
    assert "1 rows that are not text in UTF-8 skipped, the first is d.csv, line 2" in caplog.text


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"learns from \.csv or \.tsv or \.jsonl or \.ndjson files"):
        load_examples(_written(tmp_path / "d.json", "[]"), _TEXT)


def test_hashed_words_depend_on_the_word_alone() -> None:
    ids = token_ids("Ärger, ärger – STRASSE straße", 4, HashedWords(ids=100)).tolist()
    assert ids[0] == ids[1] == 1 + zlib.crc32("ärger".encode()) % 99
    assert ids[2] != ids[3]


def test_composed_and_decomposed_letters_are_the_same_word() -> None:
    words = Vocabulary(words=("café",))
    assert token_ids("café", 1, words).tolist() == token_ids("cafe\u0301", 1, words).tolist() == [2]


@pytest.mark.parametrize("tokenizer", [HashedWords(ids=50), Bytes(), Vocabulary(words=("a", "b"))])
@given(text=st.text(), length=st.integers(1, 20))
def test_ids_are_below_the_number_of_ids(tokenizer: Tokenizer, text: str, length: int) -> None:
    ids = token_ids(text, length, tokenizer)
    assert ids.shape == (length,)
    assert ids.min() >= 0
    assert ids.max() < tokenizer.ids
