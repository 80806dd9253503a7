"""The byte format of a whole update (uplink) and of a whole model (downlink), little-endian throughout.

==========  ======================================================================================================
4 bytes     magic and version: ``FPU1`` for an update, ``FPM1`` for a model
uint8       value scheme: 0 fp32, 1 fp16, 2 int8
uint8       updates only: 0 both sides know the mask, 1 it travels with the update
rest        the tensors in the order of the tensor table, without gaps, each by its class
==========  ======================================================================================================

- *prunable*: positions unless they are known (`Smallest`), then the values at kept positions in the value scheme;
- *dense*: all values in the value scheme;
- *statistics*: all values in fp32, whatever the scheme;
- *integer*: in a model the array itself, row by row; in an update nothing;
- *frozen*: nothing. Whoever has the task has them, among its initial weights.

Nothing in a blob says how long it is: only the tensor table does, and every byte must be accounted for. An update, and
a model, has exactly one form as bytes: readers refuse what writers would not have written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.positions import Known, Positions, Smallest
from fedprune.codecs.reader import Reader
from fedprune.codecs.stages import ABSENT, Stage, chain, decode, encode
from fedprune.codecs.update import Update
from fedprune.codecs.values import Values
from fedprune.errors import ProtocolError
from fedprune.model.tensors import Array, Mask, TensorClass, TensorSpec, TensorTable, Weights

_UPDATE_MAGIC = b"FPU1"
_MODEL_MAGIC = b"FPM1"
_SCHEMES = tuple(Values)
_IN_UPDATES = (TensorClass.PRUNABLE, TensorClass.DENSE, TensorClass.STATISTICS)
_IN_MODELS = (*_IN_UPDATES, TensorClass.INTEGER)


def encode_update(update: Update, table: TensorTable, values: Values, *, mask_is_known: bool) -> bytes:
    """Write an update.

    Args:
        update: with arrays of the shapes in `table`; where its mask prunes, the delta is left out.
        table: the task's tensor table.
        values: the value scheme of deltas; statistics are fp32 always.
        mask_is_known: the receiver has the same mask, which then costs nothing.

    Raises:
        ValueError: an array does not fit `table` or is not finite.

    Example:
        >>> table = TensorTable((TensorSpec("kernel", (4,), "float32", TensorClass.PRUNABLE, "dense"),))
        >>> mask = {"kernel": np.array([True, False, False, True])}
        >>> update = Update({"kernel": np.float32([1, 2, 3, 4])}, {}, mask)
        >>> blob = encode_update(update, table, Values.INT8, mask_is_known=True)
        >>> len(blob), decode_update(blob, table, mask, Values.INT8).delta["kernel"].round(1).tolist()
        (12, [1.0, 0.0, 0.0, 4.0])
    """
    header = _UPDATE_MAGIC + bytes([_SCHEMES.index(values), not mask_is_known])
    known_mask = update.mask if mask_is_known else None
    tensors = {**update.delta, **update.statistics}
    return b"".join([header, *_encode_tensors(table.of(*_IN_UPDATES), tensors, update.mask, values, known_mask)])


def decode_update(blob: bytes, table: TensorTable, known_mask: Mask | None, values: Values) -> Update:
    """Read an update. Time and memory are bounded by the size of `table`.

    Args:
        blob: foreign bytes.
        table: the task's tensor table.
        known_mask: the mask that both sides have; None if the update must carry its own.
        values: the value scheme that the update must use.

    Returns:
        The update, whose numbers are finite; `check_update` checks them further.

    Raises:
        ProtocolError: the bytes are not those of any update that `encode_update` writes so.
    """
    reader = Reader(blob)
    found = _read_header(reader, _UPDATE_MAGIC)
    if found is not values:
        raise ProtocolError(f"the update's values are {found}, not {values}")
    (carries_mask,) = reader.unpack("B")
    if carries_mask != (known_mask is None):
        raise ProtocolError(f"the update's mask byte is {carries_mask}, not {int(known_mask is None)}")
    tensors, mask = _decode_tensors(table.of(*_IN_UPDATES), reader, values, known_mask)
    reader.finish()
    statistics = {spec.name: tensors.pop(spec.name) for spec in table.of(TensorClass.STATISTICS)}
    return Update(delta=tensors, statistics=statistics, mask=mask)


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
    header = _MODEL_MAGIC + bytes([_SCHEMES.index(values)])
    return b"".join([header, *_encode_tensors(table.of(*_IN_MODELS), weights, mask, values, known_mask=None)])


def decode_model(blob: bytes, table: TensorTable) -> tuple[dict[str, Array], Mask]:
    """Read a model in any value scheme. Time and memory are bounded by the size of `table`.

    Args:
        blob: foreign bytes.
        table: the task's tensor table.

    Returns:
        The tensors in table order, 0 where pruned, and the mask. Encoding them again gives `blob`. The frozen ones are
        not among them: `TensorTable.with_frozen` puts them back.

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
    values = _read_header(reader, _MODEL_MAGIC)
    weights, mask = _decode_tensors(table.of(*_IN_MODELS), reader, values, known_mask=None)
    reader.finish()
    return weights, mask


def _read_header(reader: Reader, magic: bytes) -> Values:
    found = bytes(reader.take(len(magic)))
    if found != magic:
        raise ProtocolError(f"the blob starts with {found!r}, not {magic!r}")
    scheme = int.from_bytes(reader.take(1))
    if scheme >= len(_SCHEMES):
        raise ProtocolError(f"value scheme {scheme} is unknown")
    return _SCHEMES[scheme]


def _encode_tensors(
    specs: Iterable[TensorSpec], tensors: Weights, mask: Mask, values: Values, known_mask: Mask | None
) -> Iterator[bytes]:
    for spec in specs:
        array = tensors[spec.name]
        if array.shape != spec.shape:
            raise ValueError(f"tensor {spec.name} is of shape {list(array.shape)}, not {list(spec.shape)}")
        if spec.kind is TensorClass.INTEGER:
            yield array.astype(np.dtype(spec.dtype).newbyteorder("<")).tobytes()
            continue
        vector = array.astype(np.float32, copy=False).ravel()
        if not np.isfinite(vector).all():
            raise ValueError(f"tensor {spec.name} holds NaN or infinity")
        if spec.kind is TensorClass.PRUNABLE:
            kept = mask[spec.name].ravel()
            vector = vector if kept.all() else np.where(kept, vector, ABSENT)
        yield encode(_coder(spec, values, known_mask), vector)


def _decode_tensors(
    specs: Iterable[TensorSpec], reader: Reader, values: Values, known_mask: Mask | None
) -> tuple[dict[str, Array], dict[str, NDArray[np.bool_]]]:
    tensors, mask = {}, {}
    for spec in specs:
        with _naming(spec):
            if spec.kind is TensorClass.INTEGER:
                vector = _read_integers(reader, spec)
            else:
                vector = decode(_coder(spec, values, known_mask), reader, spec.size)
        if spec.kind is TensorClass.PRUNABLE:
            absent = np.isnan(vector)
            kept = np.logical_not(absent, out=absent)
            bits = vector.view(np.uint32)
            bits *= kept  # +0.0 where nothing was sent; as bits, for NaN times zero is NaN
            mask[spec.name] = kept.reshape(spec.shape)
        tensors[spec.name] = vector.reshape(spec.shape)
    return tensors, mask


def _read_integers(reader: Reader, spec: TensorSpec) -> NDArray[Any]:
    dtype = np.dtype(spec.dtype)
    if dtype != np.bool_:
        return reader.array(dtype, spec.size)
    array = reader.array(np.dtype(np.uint8), spec.size)
    if array.max(initial=0) > 1:
        raise ProtocolError("a truth value is neither 0 nor 1")
    return array.astype(np.bool_)


def _coder(spec: TensorSpec, values: Values, known_mask: Mask | None) -> Stage:
    if spec.kind is TensorClass.STATISTICS:
        return Values.FP32.stage
    if spec.kind is TensorClass.DENSE:
        return values.stage
    coding = Smallest() if known_mask is None else Known(known_mask[spec.name].ravel())
    return chain(Positions(coding), values.stage)


@contextmanager
def _naming(spec: TensorSpec) -> Iterator[None]:
    """Say in which tensor the bytes went wrong."""
    try:
        yield
    except ProtocolError as error:
        raise ProtocolError(f"tensor {spec.name}: {error}") from None
