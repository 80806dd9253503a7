"""Votes for pruned weights as bytes: the last part of an update of a round after which some come back.

For each tensor of which weights can come back: which of its pruned weights are named (`Smallest`), and a signed byte
for each of these.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.positions import Smallest
from fedprune.codecs.reader import Reader, naming
from fedprune.errors import ProtocolError
from fedprune.model.tensors import Mask
from fedprune.pruning.regrowth import LARGEST_VOTE, Votes


def encode_votes(votes: Votes) -> bytes:
    """Write the votes of tensors, in their order.

    Example:
        >>> encode_votes({"kernel": np.array([0, -127, 0], np.int8)})
        b'\\x01\\x02\\x81'
    """
    return b"".join(Smallest().encode(each != 0) + each[each != 0].tobytes() for each in votes.values())


def read_votes(reader: Reader, mask: Mask, most: Mapping[str, int]) -> dict[str, NDArray[np.int8]]:
    """Read the votes of the tensors in `most`, for at most so many of the weights that `mask` prunes.

    Raises:
        ProtocolError: the bytes are not those of any votes that `encode_votes` writes so.
    """
    votes = {}
    for name, count in most.items():
        with naming(f"votes, tensor {name}"):
            pruned = mask[name].size - int(np.count_nonzero(mask[name]))
            named = Smallest().read(reader, pruned, count)
            values = reader.array(np.dtype(np.int8), int(np.count_nonzero(named)))
            if not (np.abs(values.astype(np.int16)) <= LARGEST_VOTE).all() or not values.all():
                raise ProtocolError(f"a vote is 0 or below -{LARGEST_VOTE}")
            votes[name] = np.zeros(pruned, np.int8)
            votes[name][named] = values
    return votes
