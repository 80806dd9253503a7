"""Tensors that two ways of training made, compared on the scale that each tensor has."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedprune.model.tensors import Array


def assert_close(found: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float) -> None:
    """The same names and dtypes, and elements that are off by at most `tolerance` of the tensor's largest, or of 1.

    float32 rounds in proportion: a variance of 4 is off by four times what a weight of 1 is, on the machine where the
    sums are taken in another order.
    """
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        scale = max(1.0, float(np.abs(array).max(initial=0.0)))
        np.testing.assert_allclose(found[name], array, rtol=0, atol=tolerance * scale, err_msg=name)
