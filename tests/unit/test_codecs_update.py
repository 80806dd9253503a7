"""What an update may hold: finite numbers within the stated bounds, and no negative variance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedprune.codecs import Update, check_magnitudes, check_update
from fedprune.codecs.update import LARGEST_VALUE, LARGEST_VARIANCE
from fedprune.errors import ProtocolError
from fedprune.model.tensors import TensorClass, TensorSpec, TensorTable

TABLE = TensorTable(
    (
        TensorSpec("kernel", (2, 2), "float32", TensorClass.PRUNABLE, "dense"),
        TensorSpec("bias", (2,), "float32", TensorClass.DENSE, "dense"),
        TensorSpec("mean", (2,), "float32", TensorClass.STATISTICS, "norm"),
        TensorSpec("variance", (2,), "float32", TensorClass.STATISTICS, "norm"),
        TensorSpec("none", (0, 3), "float32", TensorClass.DENSE, "dense"),
    )
)


def holding(name: str, value: float) -> Update:
    """An update of zeros, but for one number."""
    tensors = {spec.name: np.zeros(spec.shape, np.float32) for spec in TABLE}
    tensors[name].flat[1] = value
    statistics = {key: tensors.pop(key) for key in ("mean", "variance")}
    return Update(tensors, statistics, {"kernel": np.ones((2, 2), np.bool_)})


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", ["kernel", "bias", "mean", "variance"])
def test_numbers_up_to_the_bound_pass_and_none_beyond(name: str, sign: float) -> None:
    bound = LARGEST_VARIANCE if name == "variance" else LARGEST_VALUE
    check_magnitudes(holding(name, sign * bound), TABLE)

    for beyond in (np.nextafter(np.float32(bound), np.float32(np.inf)), np.inf, np.nan):
        with pytest.raises(ProtocolError, match=f"tensor {name}: a value is .*; at most"):
            check_magnitudes(holding(name, sign * float(beyond)), TABLE)


def test_a_negative_variance_is_refused() -> None:
    check_update(holding("variance", -0.0), TABLE)

    with pytest.raises(ProtocolError, match="tensor variance: a variance is negative"):
        check_update(holding("variance", -1e-9), TABLE)


def test_an_update_is_judged_by_itself_whatever_else_a_round_holds() -> None:
    update = holding("bias", LARGEST_VALUE)

    check_update(update, TABLE)
    check_update(replace(update, mask={"kernel": np.zeros((2, 2), np.bool_)}), TABLE)
