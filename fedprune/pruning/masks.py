"""Masks by magnitude: which weights are kept at a given sparsity, and how sparsity is spread over the layers.

Scores and ties are computed so that every participant gets the same mask from the same weights, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Array, Mask, TensorClass, TensorTable, Weights
from fedprune.pruning.blocks import SINGLE, Block, pool_kept, pool_magnitudes, spread
from fedprune.pruning.erk import erk_densities
from fedprune.pruning.lamp import keep_by_lamp

_Score = TypeVar("_Score", np.float32, np.float64, np.floating, np.uint64)

_PIECE = 2**16
"""Places of a tensor that are gone through at once."""

_PRUNED = -1.0
"""Scores below those of all kept weights, of zeros too."""


class Allocation(StrEnum):
    """The rule that spreads the sparsity of the whole model over its prunable tensors."""

    LAMP = "lamp"
    """By LAMP scores: every layer keeps what matters most to itself (Lee et al. 2021, arXiv 2010.07611)."""
    GLOBAL = "global"
    """By magnitude over all layers together."""
    UNIFORM = "uniform"
    """The same sparsity in every tensor, as TF-MOT prunes."""
    ERK = "erk"
    """By the shapes of layers, small ones denser (Evci et al. 2020, arXiv 1911.11134, section 3), and in each by
    magnitude."""


def score_mask(
    weights: Weights,
    table: TensorTable,
    sparsity: float,
    allocation: Allocation,
    previous: Mask,
    block: Block = SINGLE,
) -> dict[str, NDArray[np.bool_]]:
    """Choose by magnitude which weights are kept: each by its own, or blocks of them by the mean of theirs.

    A weight that was pruned stays pruned, whatever its value is now, and a kept one that has become 0 is still one of
    those that are kept: the masks of growing sparsities are nested.

    LAMP and global keep exactly round(n (1 - sparsity)) of all n weights or blocks, and of equal scores those that come
    first in the table; ERK rounds in each tensor. Uniform is TF-MOT's rule (0.8.1, `pruning_impl.Pruning`), which keeps
    *all* weights that equal a layer's threshold: a layer with too many zeros among its kept weights is not pruned
    further.

    Args:
        weights: float32, by tensor name; the prunable ones are looked at.
        table: the task's tensor table.
        sparsity: the fraction of prunable scalars, or blocks, to prune, in [0, 1).
        allocation: how it is spread over the tensors.
        previous: the mask so far, `full_mask(table)` if nothing was pruned. Where it prunes more than `sparsity`, it
            is the result.
        block: rows and columns of what is pruned together, see `fedprune.pruning.blocks`.

    Returns:
        For each prunable tensor a bool array of its shape, True where a weight is kept.

    Example:
        >>> from fedprune.model.tensors import TensorSpec
        >>> table = TensorTable((TensorSpec("kernel", (4,), "float32", TensorClass.PRUNABLE, "dense"),))
        >>> weights = {"kernel": np.array([3.0, -1.0, 0.5, 2.0], np.float32)}
        >>> half = score_mask(weights, table, 0.5, Allocation.LAMP, full_mask(table))
        >>> half["kernel"].tolist()
        [True, False, False, True]
    """
    shapes = {spec.name: spec.shape for spec in table.of(TensorClass.PRUNABLE)}
    scored, kept = weights, {name: previous[name] for name in shapes}
    if block != SINGLE:
        scored = {name: pool_magnitudes(weights[name], previous[name], block) for name in shapes}
        kept = {name: pool_kept(previous[name], block) for name in shapes}
    chosen = _choose(scored, shapes, sparsity, allocation, kept)
    if block != SINGLE:
        return {name: spread(chosen[name], shape, block) & previous[name] for name, shape in shapes.items()}
    return chosen


def _choose(
    scored: Weights,
    shapes: Mapping[str, tuple[int, ...]],
    sparsity: float,
    allocation: Allocation,
    previous: dict[str, NDArray[np.bool_]],
) -> dict[str, NDArray[np.bool_]]:
    """The mask of weights or of blocks, whose tensors have `shapes`. Of `scored` no more than one is looked at a time:
    it may make them when it is asked for them."""
    match allocation:
        case Allocation.UNIFORM:
            return {name: _keep_as_tfmot(scored[name], sparsity, kept) for name, kept in previous.items()}
        case Allocation.ERK:
            densities = erk_densities(shapes, 1.0 - sparsity)
            return {name: _keep_part(scored[name], densities[name], kept) for name, kept in previous.items()}
    count = _number_kept(previous, sparsity)
    if count == sum(int(np.count_nonzero(kept)) for kept in previous.values()):
        return dict(previous)
    return (keep_by_lamp if allocation is Allocation.LAMP else _keep_best)(scored, count, previous)


def keep_above(weights: Weights, mask: Mask, threshold: float) -> dict[str, NDArray[np.bool_]]:
    """Prune what is smaller than a threshold, as after training with an L1 penalty (Han et al. 2015, arXiv 1506.02626,
    section 3.1), which draws weights to 0 and past it, hardly ever onto it.

    Args:
        weights: float32, by tensor name.
        mask: of some of them, with their shapes.
        threshold: a magnitude; weights of as much stay.

    Returns:
        `mask` without the smaller weights. A tensor that would lose all of its weights keeps the largest.

    Example:
        >>> every = {"kernel": np.ones(3, np.bool_)}
        >>> keep_above({"kernel": np.float32([0.01, -0.5, 1e-4])}, every, 1e-3)["kernel"].tolist()
        [True, True, False]
    """
    return {name: _keep_above(weights[name], kept, np.float32(threshold)) for name, kept in mask.items()}


def _keep_above(array: Array, kept: NDArray[np.bool_], threshold: np.float32) -> NDArray[np.bool_]:
    magnitudes = _magnitudes(array, kept)
    above: NDArray[np.bool_] = (magnitudes >= threshold) & kept
    if above.any() or not kept.any():
        return above
    return largest(magnitudes.reshape(-1), 1).reshape(array.shape)


def full_mask(table: TensorTable) -> dict[str, NDArray[np.bool_]]:
    """The mask that keeps every weight: for each prunable tensor in `table` a bool array of its shape."""
    return {spec.name: np.ones(spec.shape, np.bool_) for spec in table.of(TensorClass.PRUNABLE)}


def apply_mask(weights: Weights, mask: Mask) -> dict[str, Array]:
    """Set pruned weights to zero.

    Args:
        weights: float32, by tensor name; none is changed.
        mask: of some of them, with their shapes.

    Returns:
        The same tensors in the same order, +0.0 where `mask` prunes; those that it does not name pass through.

    Example:
        >>> apply_mask({"kernel": np.float32([1, -2])}, {"kernel": np.array([True, False])})["kernel"].tolist()
        [1.0, 0.0]
    """
    return {
        name: np.where(mask[name], array, np.float32(0.0)) if name in mask else array for name, array in weights.items()
    }


def zero_pruned(tensors: Weights, mask: Mask) -> None:
    """Set pruned weights to zero in place, which takes no memory for another copy of them.

    Args:
        tensors: float32 arrays that are the caller's own, by tensor name.
        mask: of some of them, with their shapes; what it names beside them is left out.

    Example:
        >>> tensors = {"kernel": np.float32([1, -2])}
        >>> zero_pruned(tensors, {"kernel": np.array([True, False])})
        >>> tensors["kernel"].tolist()
        [1.0, 0.0]
    """
    for name, kept in mask.items():
        if name in tensors:
            np.copyto(tensors[name], np.float32(0.0), where=~kept)


def take_kept(array: Array, kept: NDArray[np.bool_]) -> Array:
    """Gather the values that are kept.

    Several times faster than `array[kept]`; it goes in pieces, as indices of all would take twice the array's memory.

    Args:
        array: float32, any shape.
        kept: of its shape.

    Returns:
        The values row by row, in one dimension; a view if all are kept.

    Example:
        >>> take_kept(np.float32([1, 2, 3]), np.array([True, False, True])).tolist()
        [1.0, 3.0]
    """
    flat, places = array.reshape(-1), kept.reshape(-1)
    if places.all():
        return flat
    taken = np.empty(np.count_nonzero(places), flat.dtype)
    end = 0
    for start in range(0, flat.size, _PIECE):
        found = flat[start : start + _PIECE].compress(places[start : start + _PIECE])
        taken[end : end + found.size] = found
        end += found.size
    return taken


def put_kept(values: Array, kept: NDArray[np.bool_], fill: float = 0.0) -> Array:
    """Undo `take_kept`.

    Args:
        values: float32, one dimension, as many as are kept.
        kept: where they go.
        fill: what the other places get.

    Returns:
        float32, of the shape of `kept`; a view of `values` if all are kept.

    Example:
        >>> put_kept(np.float32([1, 3]), np.array([True, False, True])).tolist()
        [1.0, 0.0, 3.0]
    """
    if kept.all():
        return values.reshape(kept.shape)
    whole, places = np.full(kept.size, fill, np.float32), kept.reshape(-1)
    end = 0
    for start in range(0, whole.size, _PIECE):
        found = start + np.flatnonzero(places[start : start + _PIECE])
        whole[found] = values[end : end + found.size]
        end += found.size
    return whole.reshape(kept.shape)


def put_places(places: NDArray[np.bool_], kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of what is kept, go on with some.

    Args:
        places: one dimension, as many as are kept.
        kept: any shape.

    Returns:
        A bool array of the shape of `kept`, False where that is.

    Example:
        >>> put_places(np.array([False, True]), np.array([True, False, True])).tolist()
        [False, False, True]
    """
    put = np.zeros(kept.shape, np.bool_)
    put[kept] = places
    return put


def largest(scores: NDArray[_Score], count: int) -> NDArray[np.bool_]:
    """Choose the `count` largest scores, of equal ones those that come first.

    Args:
        scores: one dimension, none NaN.
        count: from 0 to their number.

    Returns:
        A bool array of their shape, True at `count` places.

    Example:
        >>> largest(np.float32([1, 3, 1, 0]), 2).tolist()
        [True, True, False, False]
    """
    if not count:
        return np.zeros(scores.size, np.bool_)
    threshold = np.partition(scores, scores.size - count)[scores.size - count]
    chosen: NDArray[np.bool_] = scores > threshold
    ties = np.flatnonzero(scores == threshold)
    chosen[ties[: count - np.count_nonzero(chosen)]] = True
    return chosen


def mask_sparsity(mask: Mask) -> float:
    """The fraction of scalars that `mask` prunes, in [0, 1]; 0.0 for one without tensors.

    Example:
        >>> mask_sparsity({"kernel": np.array([True, False, False, False])})
        0.75
    """
    total = sum(kept.size for kept in mask.values())
    pruned = total - sum(int(np.count_nonzero(kept)) for kept in mask.values())
    return pruned / total if total else 0.0


def _number_kept(previous: Mask, sparsity: float) -> int:
    """round(n (1 - sparsity)) of all n, or those that `previous` keeps if these are fewer."""
    total = sum(kept.size for kept in previous.values())
    return min(round(total * (1.0 - sparsity)), sum(int(np.count_nonzero(kept)) for kept in previous.values()))


def _magnitudes(array: Array, kept: NDArray[np.bool_]) -> Array:
    """|w|, and `_PRUNED` where a weight is not kept."""
    return np.where(kept, np.abs(array), np.float32(_PRUNED))


def _keep_as_tfmot(array: Array, sparsity: float, previous: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """TF-MOT 0.8.1's mask for one tensor, with the number of kept weights rounded in float32 as it does."""
    magnitudes = _magnitudes(array, previous)
    wanted = np.round(np.float32(array.size) * (np.float32(1.0) - np.float32(sparsity)))
    keep = min(max(int(wanted), 1), array.size)
    threshold = np.partition(magnitudes, array.size - keep, axis=None)[array.size - keep]
    kept: NDArray[np.bool_] = (magnitudes >= threshold) & previous
    return kept


def _keep_part(array: Array, density: float, previous: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The round(n density) largest magnitudes of one tensor, of equal ones the first; never what is pruned."""
    count = min(round(array.size * density), int(np.count_nonzero(previous)))
    return largest(_magnitudes(array, previous).reshape(-1), count).reshape(array.shape)


def _keep_best(weights: Weights, count: int, previous: Mask) -> dict[str, NDArray[np.bool_]]:
    """Keep the `count` largest magnitudes of all tensors together, of equal ones those with the lowest index."""
    magnitudes = [np.abs(take_kept(weights[name], kept)) for name, kept in previous.items()]
    ends = np.cumsum([array.size for array in magnitudes])
    chosen = np.split(largest(np.concatenate(magnitudes), count), ends[:-1])
    return {name: put_places(places, kept) for (name, kept), places in zip(previous.items(), chosen, strict=True)}
