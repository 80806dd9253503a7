from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedprune.codecs import ErrorFeedback, Update, Values, decode_update, encode_update
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, Mask, TensorClass, TensorSpec, TensorTable, Weights

TABLE = TensorTable(
    (
        TensorSpec("kernel", (6, 5), "float32", TensorClass.PRUNABLE, "layer"),
        TensorSpec("bias", (5,), "float32", TensorClass.DENSE, "layer"),
    )
)
UNCAPPED = ErrorFeedback(norm_cap=math.inf)


class Int8Compressor:
    def __init__(self, mask: Mask) -> None:
        self._mask = mask

    def __call__(self, delta: Weights) -> tuple[bytes, Weights]:
        payload = encode_update(Update(delta, {}, self._mask), TABLE, Values.INT8, mask_is_known=True)
        return payload, decode_update(payload, TABLE, self._mask, Values.INT8).delta


def deltas() -> st.SearchStrategy[dict[str, Array]]:
    some = {"elements": st.floats(-2.0, 2.0, width=32)}
    return st.fixed_dictionaries({spec.name: arrays.arrays(np.float32, spec.shape, **some) for spec in TABLE})


masks = arrays.arrays(np.bool_, (6, 5)).map(lambda kept: {"kernel": kept})


def norm(tensors: Weights) -> float:
    return math.sqrt(sum(float(np.sum(array.astype(np.float64) ** 2)) for array in tensors.values()))


@given(deltas(), deltas(), masks)
def test_sent_and_owed_make_up_what_was_wanted(delta: Weights, residual: Weights, mask: Mask) -> None:
    sent = UNCAPPED.send(Int8Compressor(mask), delta, residual, mask)
    wanted = {name: delta[name] + residual[name] for name in delta}
    wanted["kernel"] = np.where(mask["kernel"], wanted["kernel"], 0.0)
    for name in delta:
        np.testing.assert_allclose(sent.decoded[name] + sent.residual[name], wanted[name], atol=1e-5)
    assert not sent.residual["kernel"][~mask["kernel"]].any()


@given(deltas(), masks)
def test_decoded_is_what_the_receiver_decodes(delta: Weights, mask: Mask) -> None:
    sent = UNCAPPED.send(Int8Compressor(mask), delta, UNCAPPED.initial(delta), mask)
    received = decode_update(sent.payload, TABLE, mask, Values.INT8).delta
    assert all(np.array_equal(received[name], sent.decoded[name]) for name in delta)


@given(deltas(), deltas(), masks, st.floats(0.001, 1.0))
def test_residual_is_no_longer_than_the_cap(delta: Weights, residual: Weights, mask: Mask, cap: float) -> None:
    capped = ErrorFeedback(cap).send(Int8Compressor(mask), delta, residual, mask)
    free = UNCAPPED.send(Int8Compressor(mask), delta, residual, mask)
    assert capped.payload == free.payload
    assert norm(capped.residual) <= cap * 1.00001
    if norm(free.residual) <= cap:
        assert all(np.array_equal(capped.residual[name], free.residual[name]) for name in delta)


def test_what_int8_cannot_tell_apart_arrives_over_rounds() -> None:
    """A constant drift below half a step next to a large value: lost without feedback, sent with it."""
    delta = {"kernel": np.full((6, 5), 0.001, np.float32), "bias": Keyed(1).uniform(5, -1.0, 1.0)}
    delta["kernel"][0, 0] = 1.0
    mask = {"kernel": np.ones((6, 5), np.bool_)}
    compress = Int8Compressor(mask)
    residual: Weights = UNCAPPED.initial(delta)
    arrived = np.zeros((6, 5))
    for _ in range(40):
        sent = UNCAPPED.send(compress, delta, residual, mask)
        residual = sent.residual
        arrived += sent.decoded["kernel"]
    assert arrived[3, 3] == pytest.approx(40 * 0.001, abs=1.0 / 127)
    assert compress(delta)[1]["kernel"][3, 3] == 0.0
