"""The byte format of a whole model (downlink), little-endian throughout.

==========  ======================================================================================================
4 bytes     magic and version: ``FPM1``
uint8       value scheme: 0 fp32, 1 fp16, 2 int8
rest        the tensors in the order of the tensor table, without gaps, each by its class
==========  ======================================================================================================

- *prunable*: where it is kept (`Smallest`), then the kept values in the value scheme;
- *dense*: all values in the value scheme;
- *statistics*: all values in fp32, whatever the scheme;
- *integer*: the array itself, row by row;
- *frozen*: nothing. Whoever has the task has them, among its initial weights.

Nothing in a blob says how long it is: only the tensor table does, and every byte must be accounted for. A model has
exactly one form as bytes: readers refuse what writers would not have written.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.floats import Fp16, Fp32
from fedprune.codecs.integers import Int8
from fedprune.codecs.links import ValueCoder
from fedprune.codecs.positions import Smallest
from fedprune.codecs.reader import Reader, naming
from fedprune.errors import ProtocolError
from fedprune.model.tensors import Array, Mask, TensorClass, TensorSpec, TensorTable, Weights
from fedprune.pruning.masks import put_kept, take_kept

_MAGIC = b"FPM1"
_TRAVELLING = (TensorClass.PRUNABLE, TensorClass.DENSE, TensorClass.STATISTICS, TensorClass.INTEGER)


class Values(StrEnum):
    """The value schemes of models; `int8` and `fp16` lose precision."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


_CODERS: dict[Values, ValueCoder] = {Values.FP32: Fp32(), Values.FP16: Fp16(), Values.INT8: Int8()}
_NUMBERS = {Values.FP32: 0, Values.FP16: 1, Values.INT8: 2}
"""The number of each scheme in the bytes."""


def encode_model(weights: Weights, mask: Mask, table: TensorTable, values: Values) -> bytes:
    """Write a model, its mask included; weights that the mask prunes are left out, and frozen tensors.

    Args:
        weights: tensors by name, with the shapes and dtypes in `table`.
        mask: True where a prunable weight is kept.
        table: the task's tensor table.
        values: the value scheme of prunable and dense tensors.

    Raises:
        ValueError: an array does not fit `table` or is not finite.
    """
    header = _MAGIC + bytes([_NUMBERS[values]])
    return b"".join(
        [header, *(_encode_tensor(spec, weights[spec.name], mask, values) for spec in table.of(*_TRAVELLING))]
    )


def decode_model(blob: bytes, table: TensorTable) -> tuple[dict[str, Array], Mask]:
    """Read a model in any value scheme. Time and memory are bounded by the size of `table`.

    Args:
        blob: foreign bytes.
        table: the task's tensor table.

    Returns:
        The tensors in table order, 0 where pruned, and the mask. Encoding them again gives `blob`. The frozen ones are
        not among them: `TensorTable.with_unsent` puts them back.

    Raises:
        ProtocolError: the bytes are not those of any model of this table.

    Example:
        >>> base = TensorSpec("base", (1000,), "float32", TensorClass.FROZEN, "base")
        >>> table = TensorTable((base, TensorSpec("bias", (2,), "float32", TensorClass.DENSE, "dense")))
        >>> weights = {"base": np.ones(1000, np.float32), "bias": np.float32([1, 2])}
        >>> blob = encode_model(weights, {}, table, Values.FP32)
        >>> len(blob), list(decode_model(blob, table)[0])
        (13, ['bias'])
    """
    reader = Reader(blob)
    found = read_model(reader, table)
    reader.finish()
    return found


def read_model(reader: Reader, table: TensorTable) -> tuple[dict[str, Array], Mask]:
    """`decode_model` of the next bytes, whatever follows."""
    reader.expect(_MAGIC)
    (number,) = reader.unpack("B")
    schemes = {wire: values for values, wire in _NUMBERS.items()}
    if number not in schemes:
        raise ProtocolError(f"value scheme {number} is unknown")
    tensors, mask = {}, {}
    for spec in table.of(*_TRAVELLING):
        with naming(f"tensor {spec.name}"):
            if spec.kind is TensorClass.INTEGER:
                tensors[spec.name] = _read_integers(reader, spec).reshape(spec.shape)
                continue
            if spec.kind is TensorClass.PRUNABLE:
                mask[spec.name] = Smallest().read(reader, spec.size, spec.size).reshape(spec.shape)
            kept = mask.get(spec.name)
            count = spec.size if kept is None else int(np.count_nonzero(kept))
            (vector,) = _coder(spec, schemes[number]).read(reader, [count])
        tensors[spec.name] = vector.reshape(spec.shape) if kept is None else put_kept(vector, kept)
    return tensors, mask


def _encode_tensor(spec: TensorSpec, array: Array, mask: Mask, values: Values) -> bytes:
    if array.shape != spec.shape:
        raise ValueError(f"tensor {spec.name} is of shape {list(array.shape)}, not {list(spec.shape)}")
    if spec.kind is TensorClass.INTEGER:
        return array.astype(np.dtype(spec.dtype).newbyteorder("<")).tobytes()
    vector, positions = array.astype(np.float32, copy=False).reshape(-1), b""
    if spec.kind is TensorClass.PRUNABLE:
        kept = mask[spec.name].reshape(-1)
        vector, positions = take_kept(vector, kept), Smallest().encode(kept)
    if not np.isfinite(vector).all():
        raise ValueError(f"tensor {spec.name} holds NaN or infinity")
    return positions + _coder(spec, values).encode([vector])


def _coder(spec: TensorSpec, values: Values) -> ValueCoder:
    return _CODERS[Values.FP32 if spec.kind is TensorClass.STATISTICS else values]


def _read_integers(reader: Reader, spec: TensorSpec) -> NDArray[Any]:
    dtype = np.dtype(spec.dtype)
    if dtype != np.bool_:
        return reader.array(dtype, spec.size)
    array = reader.array(np.dtype(np.uint8), spec.size)
    if array.max(initial=0) > 1:
        raise ProtocolError("a truth value is neither 0 nor 1")
    return array.astype(np.bool_)
