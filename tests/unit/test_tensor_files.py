"""Files of named arrays: the library and we read the same in them, and what is damaged is said to be."""

from __future__ import annotations

import io
from contextlib import suppress

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from fedprune.model.tensor_files import pack_tensors, unpack_tensors, view_tensors, write_tensors

DTYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "float16", "int32", "uint32", "float32", "int64", "uint64", "float64",
)  # fmt: skip
ARRAYS = {
    **{f"of {dtype}": np.arange(6).reshape(2, 3).astype(dtype) for dtype in DTYPES},
    "empty": np.empty((0, 3), np.float32),
    "scalar": np.array(1.5, np.float32),
    "größe": np.array([True]),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
}


def test_the_library_reads_every_kind_of_array_that_is_written() -> None:
    found = safetensors.numpy.load(pack_tensors(ARRAYS))

    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_what_the_library_writes_and_what_we_write_is_read_alike() -> None:
    for blob in (pack_tensors(ARRAYS), safetensors.numpy.save({n: np.array(a) for n, a in ARRAYS.items()}, {"a": "b"})):
        ours, theirs = view_tensors(bytes(blob)), unpack_tensors(bytes(blob))
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            np.testing.assert_array_equal(array, theirs[name], strict=True)


def test_equal_arrays_are_equal_bytes_whatever_their_order() -> None:
    assert pack_tensors(ARRAYS) == pack_tensors(dict(reversed(ARRAYS.items())))


def test_arrays_are_asked_for_one_at_a_time() -> None:
    asked: list[str] = []

    def make(name: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        asked.append(name)
        return np.ones(2, np.float32)

    write_tensors(io.BytesIO(), {name: lambda name=name: make(name) for name in "ab"}, {})
    assert asked == ["a", "b", "a", "b"]


@given(st.data())
def test_a_damaged_file_is_said_to_be_or_has_arrays_within_it(data: st.DataObject) -> None:
    blob = pack_tensors({"kernel": np.ones((2, 3), np.float32), "mask": np.array([True, False])})
    at, length = data.draw(st.integers(0, len(blob))), data.draw(st.integers(0, 12))
    damaged = blob[:at] + data.draw(st.binary(max_size=12)) + blob[at + length :]
    with suppress(ValueError):
        assert sum(array.nbytes for array in view_tensors(damaged).values()) <= len(damaged)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-8,-4]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F4","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"BOOL","shape":[4],"data_offsets":[0,4]}}',
        b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    ],
)
def test_arrays_that_are_not_there_are_refused(header: bytes) -> None:
    with pytest.raises(ValueError, match=r"header|tensor a"):
        view_tensors(len(header).to_bytes(8, "little") + header + b"\2\2\2\2")
