"""Examples: loading them, checking them, and sharing them out over agents.

A loader is a function from a path to a `Dataset` that raises `DataError` for anything it cannot use. Whatever comes
after it (the fit to a model, the partition, training) sees only the `Dataset`, so a further format is one more loader.
"""

from __future__ import annotations

from fedprune.data.dataset import Dataset
from fedprune.data.fit import fit_to
from fedprune.data.importance import importance_of
from fedprune.data.npz import count_examples, load_npz, save_npz

__all__ = ["Dataset", "count_examples", "fit_to", "importance_of", "load_npz", "save_npz"]
