"""scikit-learn's digits: real scans that are part of its wheel, for where nothing else can be had."""

from __future__ import annotations

import numpy as np

from fedprune.data.dataset import Dataset, Source
from fedprune.errors import DataError

_TEST_EXAMPLES = 360


def digits() -> Source:
    """1,797 handwritten digits (Alpaydin and Kaynak 1998) in the format of MNIST: float32 `[examples, 28, 28, 1]`.

    The 8x8 scans of 17 grey levels are divided by 16, each pixel is repeated 3x3, and 2 empty pixels go around them,
    so that a model made for 28x28 takes them. The last 360 are the test split: writers come one after another, so
    most of these are by hands that the training split has not seen.

    Raises `DataError` where scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("digits: they come with scikit-learn; install it (`pip install scikit-learn`)") from error
    scans = load_digits()
    x = (np.asarray(scans.images) / 16).astype(np.float32).repeat(3, axis=1).repeat(3, axis=2)
    x = np.pad(x, ((0, 0), (2, 2), (2, 2)))[..., None]
    y = np.asarray(scans.target, np.int64)
    name = "digits (scikit-learn, 8x8 enlarged to 28x28)"
    return Source(
        name,
        train=Dataset(x[:-_TEST_EXAMPLES], y[:-_TEST_EXAMPLES], name),
        test=Dataset(x[-_TEST_EXAMPLES:], y[-_TEST_EXAMPLES:], name),
    )
