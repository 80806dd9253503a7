"""Server optimizers: a round's mean delta as the gradient of one step of an optimizer on the gateway.

Its state is kept in checkpoints, so that a run goes on from any of them. All is computed element by element in float64
and rounded to float32 once, by operations that every machine rounds alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedprune.errors import StorageError
from fedprune.model.tensors import Array, Mask, TensorClass, TensorTable, Weights
from fedprune.pruning.sparse_weights import SparseWeights, kept_of

_Rate = Annotated[float, msgspec.Meta(gt=0, le=1000)]
_Decay = Annotated[float, msgspec.Meta(ge=0, lt=1)]
_Doubles = NDArray[np.float64]

_PIECE = 2**16
"""Numbers of a tensor that are moved at once: float64 of a whole one would take several times its memory."""


class FedAvgM(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="fedavgm"):
    """Momentum on the gateway (Hsu et al. 2019, "Measuring the effects of non-identical data distribution for federated
    visual classification", arXiv 1909.06335): v = momentum v + delta; w = w + learning_rate v."""

    learning_rate: _Rate = 1.0
    momentum: _Decay = 0.9

    @property
    def first(self) -> Mapping[str, float]:
        """The state before the first round: the value of all elements, by the names of its parts."""
        return {"momentum": 0.0}

    def move(self, delta: _Doubles, state: Mapping[str, _Doubles]) -> tuple[_Doubles, dict[str, _Doubles]]:
        """What weights are moved by, and the state after it."""
        momentum = self.momentum * state["momentum"] + delta
        return self.learning_rate * momentum, {"momentum": momentum}


class FedAdam(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="fedadam"):
    """Adam on the gateway (Reddi et al. 2021, "Adaptive federated optimization", arXiv 2003.00295, algorithm 2):
    m = beta_1 m + (1 - beta_1) delta; v = beta_2 v + (1 - beta_2) delta^2;
    w = w + learning_rate m / (sqrt(v) + tau)."""

    learning_rate: _Rate = 0.01
    beta_1: _Decay = 0.9
    beta_2: _Decay = 0.99
    tau: Annotated[float, msgspec.Meta(ge=1e-9, le=1)] = 1e-3

    @property
    def first(self) -> Mapping[str, float]:
        """The state before the first round: m is 0 and v is tau^2, the least that the algorithm allows."""
        return {"mean": 0.0, "square": self.tau**2}

    def move(self, delta: _Doubles, state: Mapping[str, _Doubles]) -> tuple[_Doubles, dict[str, _Doubles]]:
        """What weights are moved by, and the state after it."""
        mean = self.beta_1 * state["mean"] + (1.0 - self.beta_1) * delta
        square = self.beta_2 * state["square"] + (1.0 - self.beta_2) * np.square(delta)
        return self.learning_rate * mean / (np.sqrt(square) + self.tau), {"mean": mean, "square": square}


ServerOptimizer = FedAvgM | FedAdam


def server_step(
    optimizer: ServerOptimizer, exact: Weights, merged: Weights, state: Weights, mask: Mask, table: TensorTable
) -> tuple[Weights, Weights]:
    """Take one step from `exact`, with what `merged` differs from it by as the delta.

    Args:
        optimizer: the federation's.
        exact: the gateway's unrounded weights before the round, float32, by tensor name.
        merged: the weights that the merge made of them.
        state: what the last step left, float32, by `part/tensor`; empty before the first one.
        mask: where weights may be kept after the merge; elsewhere they and the state are 0, and nothing is computed.
        table: the task's tensor table.

    Returns:
        The weights, in the order of `merged`, and the state; statistics, integers and frozen tensors are those of
        `merged`.

    Example:
        >>> from fedprune.model.tensors import TensorSpec
        >>> table = TensorTable((TensorSpec("bias", (1,), "float32", TensorClass.DENSE, "dense"),))
        >>> exact, merged = {"bias": np.float32([1.0])}, {"bias": np.float32([1.5])}
        >>> state = {"momentum/bias": np.float32([2.0])}
        >>> weights, state = server_step(FedAvgM(momentum=0.5), exact, merged, state, {}, table)
        >>> weights["bias"].tolist(), state["momentum/bias"].tolist()
        ([2.5], [1.5])
    """
    moved, left = dict[str, Array](), dict[str, Array]()
    for spec in table.of(TensorClass.PRUNABLE, TensorClass.DENSE):
        kept = mask.get(spec.name)
        keys = {part: f"{part}/{spec.name}" for part in optimizer.first}
        former = {part: kept_of(state, key, kept) if key in state else None for part, key in keys.items()}
        weights, parts = _step(optimizer, kept_of(exact, spec.name, kept), kept_of(merged, spec.name, kept), former)
        shape = spec.shape if kept is None else weights.shape
        moved[spec.name] = weights.reshape(shape)
        left |= {keys[part]: array.reshape(shape) for part, array in parts.items()}
    others = {name: merged[name] for name in merged if name not in moved}
    held = {name: others[name] if name in others else moved[name] for name in merged}
    return SparseWeights(held, mask), SparseWeights(left, _of_parts(mask, left))


def _step(
    optimizer: ServerOptimizer, before: Array, after: Array, former: Mapping[str, Array | None]
) -> tuple[Array, dict[str, Array]]:
    """The step of the n kept values of a tensor, and their state, of which nothing was there before the first step."""
    moved, parts = np.empty(before.size, np.float32), {part: np.empty(before.size, np.float32) for part in former}
    for begin in range(0, before.size, _PIECE):
        piece = slice(begin, begin + _PIECE)
        was = before[piece].astype(np.float64)
        by, state = optimizer.move(after[piece] - was, _doubles(optimizer, former, piece, was.size))
        moved[piece] = was + by
        for part, array in state.items():
            parts[part][piece] = array
    return moved, parts


def mask_state(state: Weights, mask: Mask) -> Weights:
    """The state with 0 where `mask` prunes: a pruned weight has nothing that could move it, or the scores of others."""
    return SparseWeights.of(state, _of_parts(mask, state))


def _of_parts(mask: Mask, keys: Iterable[str]) -> Mask:
    """The mask of each part of a state, by `part/tensor`, of the tensors that `mask` names."""
    tensors = {key: key.partition("/")[2] for key in keys}
    return {key: mask[name] for key, name in tensors.items() if name in mask}


def check_state(optimizer: ServerOptimizer | None, state: Weights, table: TensorTable) -> None:
    """Raise `StorageError` unless the state in a checkpoint is this optimizer's; before the first step it is empty."""
    tensors = table.of(TensorClass.PRUNABLE, TensorClass.DENSE)
    parts = () if optimizer is None else tuple(optimizer.first)
    expected = {f"{part}/{spec.name}": spec.shape for part in parts for spec in tensors}
    if state and {key: array.shape for key, array in state.items()} != expected:
        raise StorageError(
            "the checkpoint has the state of another server optimizer; set aggregation.optimizer as the run began with "
            "it, or name an empty state"
        )


def _doubles(
    optimizer: ServerOptimizer, parts: Mapping[str, Array | None], piece: slice, size: int
) -> dict[str, _Doubles]:
    """A piece of each part of a tensor's state, or what it is at first."""
    return {
        part: np.full(size, optimizer.first[part]) if array is None else array.reshape(-1)[piece].astype(np.float64)
        for part, array in parts.items()
    }
