"""The tensor table: which arrays a model has, in which order, and how each may be treated."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedprune.errors import ProtocolError

Array = NDArray[np.float32]
"""A float32 array of any shape."""

Inputs = NDArray[np.float32] | NDArray[np.int32]
"""Examples `[examples, ...]`: numbers, or token ids."""

Weights = Mapping[str, Array]
"""A model's tensors by name, in the order of its tensor table."""

_PIECE = 2**16
"""Numbers whose squares are summed at once."""

Mask = Mapping[str, NDArray[np.bool_]]
"""For each *prunable* tensor, True where a weight is kept; same shapes as the tensors."""


class TensorClass(StrEnum):
    """The treatment that a tensor gets on the wire and in a merge."""

    PRUNABLE = "prunable"
    """Kernels: pruned, sent at kept positions, averaged by examples."""
    DENSE = "dense"
    """Biases, gamma, beta: never pruned, averaged by examples."""
    STATISTICS = "statistics"
    """BatchNorm moving mean and variance: sent exactly (fp32), merged as pooled moments."""
    INTEGER = "integer"
    """Counters and look-up tables: they keep their initial value and are never sent in an update."""
    FROZEN = "frozen"
    """Tensors of layers that were trained elsewhere: neither trained nor pruned; only the task bundle has them."""


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the tensor table. `layer` groups a layer's tensors: it pairs a moving mean with its variance.

    A `local` tensor, which is dense or a statistic, is each device's own: it is in no model and in no update.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: TensorClass
    layer: str
    local: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class TensorTable:
    """The ordered tensor table of a task. Order and names are those of `strip_pruning(model).weights`."""

    def __init__(self, specs: tuple[TensorSpec, ...]) -> None:
        self._specs = specs

    def __iter__(self) -> Iterator[TensorSpec]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def of(self, *kinds: TensorClass) -> tuple[TensorSpec, ...]:
        """The rows of the given classes that are not local, in table order."""
        return tuple(spec for spec in self._specs if spec.kind in kinds and not spec.local)

    @property
    def local(self) -> tuple[TensorSpec, ...]:
        """The rows that each device has values of its own for, in table order."""
        return tuple(spec for spec in self._specs if spec.local)

    @property
    def unsent(self) -> tuple[TensorSpec, ...]:
        """The rows that no model brings, in table order: frozen and local ones."""
        return tuple(spec for spec in self._specs if spec.local or spec.kind is TensorClass.FROZEN)

    @cached_property
    def moments(self) -> tuple[tuple[str, str], ...]:
        """The names of each layer's statistics that are not local, moving mean and moving variance."""
        by_layer: dict[str, list[str]] = {}
        for spec in self.of(TensorClass.STATISTICS):
            by_layer.setdefault(spec.layer, []).append(spec.name)
        return tuple((mean, variance) for mean, variance in by_layer.values())

    @property
    def parameters(self) -> int:
        """Number of scalars in all tensors."""
        return sum(spec.size for spec in self._specs)

    @property
    def prunable(self) -> int:
        """Number of scalars in the prunable tensors."""
        return sum(spec.size for spec in self.of(TensorClass.PRUNABLE))

    def with_unsent(self, tensors: Weights, unsent: Weights) -> dict[str, Array]:
        """A whole model: what no model brings from `unsent`, all others from `tensors`, in table order.

        Example:
            >>> base = TensorSpec("base", (), "float32", TensorClass.FROZEN, "base")
            >>> table = TensorTable((base, TensorSpec("bias", (), "float32", TensorClass.DENSE, "dense")))
            >>> table.with_unsent({"bias": np.float32(2)}, {"base": np.float32(1)}) == {"base": 1, "bias": 2}
            True
        """
        kept = {spec.name for spec in self.unsent}
        return {spec.name: (unsent if spec.name in kept else tensors)[spec.name] for spec in self._specs}

    def check(self, weights: Mapping[str, NDArray[np.generic]]) -> None:
        """Raise `ProtocolError` unless `weights` has exactly this table's names, shapes and dtypes, all finite."""
        expected = [spec.name for spec in self._specs]
        if list(weights) != expected:
            raise ProtocolError(f"tensors {list(weights)[:4]}… do not match the task's {expected[:4]}…")
        for spec in self._specs:
            array = weights[spec.name]
            if array.shape != spec.shape or array.dtype != spec.dtype:
                raise ProtocolError(
                    f"tensor {spec.name} is {array.dtype}{list(array.shape)}, "
                    f"the task says {spec.dtype}{list(spec.shape)}"
                )
            if not np.isfinite(array).all():
                raise ProtocolError(f"tensor {spec.name} holds NaN or infinity")


def weights_digest(weights: Mapping[str, NDArray[np.generic]]) -> str:
    """SHA-256 (hex) over each tensor's name, dtype, shape and little-endian bytes, in the given order.

    Two participants hold the same model exactly if their digests are equal.

    Example:
        >>> weights_digest({"bias": np.zeros(2, np.float32)})[:16]
        'b04b6a88633ac194'
    """
    digest = hashlib.sha256()
    for name, array in weights.items():
        digest.update(f"{name}\0{array.dtype.str.lstrip('<>=|')}\0{array.shape}\0".encode())
        little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(little_endian.reshape(-1).view(np.uint8).data)  # as bytes, without a copy of them
    return digest.hexdigest()


def euclidean_norm(tensors: Weights) -> float:
    """The root of the sum of all squares, which are taken and added up in float64.

    It goes through each tensor in pieces: squares of a whole one would take twice its own memory.

    Example:
        >>> euclidean_norm({"kernel": np.float32([[3, 0]]), "bias": np.float32([4])})
        5.0
    """
    flat = [array.reshape(-1) for array in tensors.values()]
    pieces = (array[start : start + _PIECE] for array in flat for start in range(0, array.size, _PIECE))
    return math.sqrt(sum(float(np.sum(np.square(piece, dtype=np.float64))) for piece in pieces))


def sparsity(weights: Weights, table: TensorTable) -> float:
    """The fraction of exact zeros among the prunable scalars, in [0, 1]; 0.0 where nothing is prunable.

    Example:
        >>> table = TensorTable((TensorSpec("kernel", (4,), "float32", TensorClass.PRUNABLE, "dense"),))
        >>> sparsity({"kernel": np.float32([0, 1, 0, -0.0])}, table)
        0.75
    """
    if not table.prunable:
        return 0.0
    kept = sum(int(np.count_nonzero(weights[spec.name])) for spec in table.of(TensorClass.PRUNABLE))
    return 1.0 - kept / table.prunable
