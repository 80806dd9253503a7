"""Weights under a mask, of which only what is kept is held: at 90 % sparsity a tenth of the memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Array, Mask, Weights
from fedprune.pruning.masks import put_kept, take_kept


class SparseWeights(Mapping[str, Array]):
    """`Weights` that are 0 where their mask prunes. Each tensor of the mask is made whole when it is asked for, and is
    then the caller's.

    Example:
        >>> import numpy as np
        >>> mask = {"kernel": np.array([[True, False, True]])}
        >>> sparse = SparseWeights.of({"kernel": np.float32([[1, 2, 3]]), "bias": np.float32([4])}, mask)
        >>> sparse["kernel"].tolist(), sparse["bias"].tolist()
        ([[1.0, 0.0, 3.0]], [4.0])
    """

    def __init__(self, held: Mapping[str, Array], mask: Mask) -> None:
        """`held`: of tensors that `mask` names the values that it keeps, as `take_kept` gives them; others whole."""
        self._held, self._mask = held, mask

    @classmethod
    def of(cls, weights: Weights, mask: Mask) -> SparseWeights:
        """The weights without what `mask` prunes, of which no more than one tensor is made whole at a time."""
        held = {name: take_kept(weights[name], mask[name]) if name in mask else weights[name] for name in weights}
        return cls(held, mask)

    @classmethod
    def copied(cls, weights: Weights, mask: Mask) -> SparseWeights:
        """The same of arrays that are views of something larger, which is not held on to."""
        sparse = cls.of(weights, mask)
        return cls({name: held.copy() for name, held in sparse._held.items()}, mask)

    def holds(self, name: str, kept: NDArray[np.bool_] | None) -> Array | None:
        """The values of a tensor that are held, if they are those that `kept` keeps, or all without it; else None."""
        return self._held[name].reshape(-1) if self._mask.get(name) is kept else None

    def __getitem__(self, name: str) -> Array:
        held = self._held[name]
        return put_kept(held, self._mask[name]) if name in self._mask else held

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


def kept_of(weights: Weights, name: str, kept: NDArray[np.bool_] | None) -> Array:
    """The values of a tensor that are kept, which is not made whole for that if they are what `SparseWeights` hold.

    Args:
        weights: by tensor name.
        name: of the tensor.
        kept: where its values are kept, in its shape; None if all are.

    Returns:
        The values row by row, in one dimension; they are not the caller's to change.

    Example:
        >>> import numpy as np
        >>> kernel, kept = np.float32([[1, 2, 3]]), np.array([[True, False, True]])
        >>> [kept_of({"kernel": kernel}, "kernel", places).tolist() for places in (kept, None)]
        [[1.0, 3.0], [1.0, 2.0, 3.0]]
    """
    held = weights.holds(name, kept) if isinstance(weights, SparseWeights) else None
    if held is not None:
        return held
    whole = weights[name]
    return whole.reshape(-1) if kept is None else take_kept(whole, kept)
