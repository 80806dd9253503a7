"""Weights under a mask, of which only what is kept is held: at 90 % sparsity a tenth of the memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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

    def __getitem__(self, name: str) -> Array:
        held = self._held[name]
        return put_kept(held, self._mask[name]) if name in self._mask else held

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)
