"""Examples: loading them, checking them, and sharing them out over agents.

A reader is a function from a path, the description of a form, and the room that there is, to `Examples`; it raises
`DataError` for what it cannot use. Whatever comes after it (the fit to a model, the partition, training) sees only
these, or a `Dataset`, which is in memory; so a further form is one more struct with its reader.
"""

from __future__ import annotations

from fedprune.data.dataset import Dataset, Examples
from fedprune.data.description import Arrays, Data
from fedprune.data.fit import fit_to
from fedprune.data.importance import importance_of
from fedprune.data.loading import load_examples, most_examples, open_examples, open_raw_examples, read_examples
from fedprune.data.npz import count_examples, load_npz, save_npz

__all__ = [
    "Arrays",
    "Data",
    "Dataset",
    "Examples",
    "count_examples",
    "fit_to",
    "importance_of",
    "load_examples",
    "load_npz",
    "most_examples",
    "open_examples",
    "open_raw_examples",
    "read_examples",
    "save_npz",
]
