"""Votes of a round's agents for pruned weights to come back: see `fedprune.pruning.regrowth`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from aggregator.merging import MOST_EXAMPLES, MOST_UPDATES
from fedprune.codecs import Update, encode_votes
from fedprune.model.tensors import Mask
from fedprune.pruning.regrowth import LARGEST_VOTE

Votes = Mapping[str, NDArray[np.int64]]
"""Sums of votes by tensor, one for each weight that the round's mask prunes."""

assert LARGEST_VOTE * MOST_EXAMPLES * MOST_UPDATES < 2**63, "sums of votes have room"


class Voting:
    """The running sums of votes, each times its agent's examples: whole numbers, so that order changes no bit.

    Example:
        >>> voting = Voting({"kernel": np.array([True, False, False])}, {"kernel": 1})
        >>> voting.add(Update({}, {}, {}, {"kernel": np.array([127, 0], np.int8)}), examples=10)
        >>> voting.add(Update({}, {}, {}, {"kernel": np.array([0, -127], np.int8)}), examples=20)
        >>> voting.sums["kernel"].tolist()
        [1270, -2540]
    """

    def __init__(self, mask: Mask, most_votes: Mapping[str, int]) -> None:
        """No votes yet for the weights of the tensors in `most_votes` that `mask` prunes. `bytes` is what they take."""
        self.bytes = 0
        self.sums: dict[str, NDArray[np.int64]] = {
            name: np.zeros(mask[name].size - int(np.count_nonzero(mask[name])), np.int64) for name in most_votes
        }

    def add(self, update: Update, examples: int) -> None:
        """Count the votes of one update, which weighs so many examples."""
        self.bytes += len(encode_votes(update.votes))
        for name, total in self.sums.items():
            total += update.votes[name].astype(np.int64) * examples
