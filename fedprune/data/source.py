"""The data that a person means: a well-known data set by its name, or data of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fedprune.data.dataset import Source
from fedprune.data.description import Arrays, Data
from fedprune.data.digits import digits
from fedprune.data.fashion_mnist import fashion_mnist
from fedprune.data.loading import read_examples
from fedprune.errors import DataError
from fedprune.system.paths import path_text

_ARRAYS = Arrays()


def open_source(name: str, data: Data = _ARRAYS) -> Source:
    """`auto`, `fashion-mnist`, `digits`, or the path of examples as `data` describes them, which are not normalised.

    Raises `DataError` where it cannot be had.

    `auto` is Fashion-MNIST, or digits where that cannot be had.
    """
    match name:
        case "auto":
            return fashion_mnist_or_digits()
        case "fashion-mnist":
            return fashion_mnist()
        case "digits":
            return digits()
        case _:
            return own_source(Path(name), data)


def own_source(path: Path, data: Data) -> Source:
    """Somebody's own examples, as `data` describes them, not normalised. Raises `DataError`."""
    return Source(path_text(path), read_examples(path, data), test=None)


def fashion_mnist_or_digits(preferred: Callable[[], Source] = fashion_mnist) -> Source:
    """The preferred data, or scikit-learn's digits with a note that says why."""
    try:
        return preferred()
    except DataError as error:
        return replace(digits(), note=f"digits stand in for Fashion-MNIST: {error}")
