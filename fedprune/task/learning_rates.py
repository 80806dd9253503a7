"""Learning-rate decay over rounds: the part of the optimizer's learning rate that a round trains with."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

_Round = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class CosineDecay(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="cosine"
):
    """From the whole learning rate down to `alpha` of it along half a cosine, and constant before and after.

    alpha + (1 - alpha) (1 + cos(pi t)) / 2 with t = (round - begin) / (end - begin) in [0, 1]: Loshchilov and Hutter
    2017 (SGDR, arXiv 1608.03983), equation 5 without restarts; `alpha` is Keras' name for the part that is left.

    Args:
        begin_round, end_round: the first round of the decay and the first after it, counted from 0.
        alpha: a fraction in [0, 1].

    Raises:
        ValueError: the end is not after the beginning.

    Example:
        >>> decay = CosineDecay(begin_round=10, end_round=20, alpha=0.1)
        >>> [round(decay.factor_at(number), 3) for number in (0, 10, 15, 20, 99)]
        [1.0, 1.0, 0.55, 0.1, 0.1]
    """

    begin_round: _Round = 0
    end_round: _Round
    alpha: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0

    def __post_init__(self) -> None:
        if self.end_round <= self.begin_round:
            raise ValueError(f"end_round is {self.end_round}; it must be greater than begin_round {self.begin_round}")

    def factor_at(self, number: int) -> float:
        """The part of the learning rate in round `number`, the first being 0: a fraction in [0, 1]."""
        progress = min(1.0, max(0.0, (number - self.begin_round) / (self.end_round - self.begin_round)))
        return self.alpha + (1.0 - self.alpha) * (1.0 + math.cos(math.pi * progress)) / 2.0


class ExponentialDecay(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="exponential"
):
    """`rate` times the learning rate of the round before (McMahan et al. 2017, arXiv 1602.05629, section 3).

    Args:
        rate: a fraction above 0, at most 1.

    Example:
        >>> ExponentialDecay(rate=0.5).factor_at(3)
        0.125
    """

    rate: Annotated[float, msgspec.Meta(gt=0, le=1)]

    def factor_at(self, number: int) -> float:
        """The part of the learning rate in round `number`, the first being 0: a fraction in [0, 1]."""
        return self.rate**number


LearningRateDecay = CosineDecay | ExponentialDecay
