"""The description of a task's data: their form, and all that is done to them before a model takes them.

It is part of the task, so that every device, the gateway and the export do the same; where the data are is each
machine's own setting. Each form's struct stands beside its reader.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from fedprune.config import from_table, read_table
from fedprune.data.arrays import Arrays
from fedprune.data.audio.recordings import Recordings
from fedprune.data.images import Images
from fedprune.data.tables.series import Series
from fedprune.data.tables.table import Table
from fedprune.data.text.text import Text
from fedprune.data.text.tokenizers import Vocabulary, read_words

Data = Arrays | Table | Series | Images | Recordings | Text
"""The ``[data]`` table of task.toml, by its ``form``."""


class _Described(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    data: Data = Arrays()


def load_description(task_toml: Path) -> Data:
    """The ``[data]`` table of a task.toml, whose words are read. Raises `ConfigurationError`."""
    table = {key: value for key, value in read_table(task_toml).items() if key == "data"}
    return with_words(from_table(table, _Described, str(task_toml)).data, task_toml.parent)


def with_words(data: Data, base: Path) -> Data:
    """The description with the words of its vocabulary in the place of their file, whose path is relative to `base`.

    Raises `ConfigurationError` where the file cannot be used.
    """
    if not isinstance(data, Text) or not isinstance(data.tokenizer, Vocabulary) or data.tokenizer.file is None:
        return data
    words = read_words(base / data.tokenizer.file)
    return msgspec.structs.replace(data, tokenizer=Vocabulary(words=words))


def lacks_words(data: Data) -> bool:
    """True for a description that is no task's yet, since the words of its vocabulary are in a file."""
    return isinstance(data, Text) and isinstance(data.tokenizer, Vocabulary) and not data.tokenizer.words
