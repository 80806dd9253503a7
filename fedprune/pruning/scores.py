"""Scores: what a weight is worth, by which masks are chosen.

Magnitude asks nothing of anybody. Sensitivity is the first-order change of the loss when a weight becomes 0, |w dL/dw|
(Mozer and Smolensky 1989, "Skeletonization"; Lee et al. 2019, SNIP, arXiv 1810.02340; Molchanov et al. 2019, arXiv
1906.10771). In a federation the gradient of an agent is its pseudo-gradient (Reddi et al. 2021, arXiv 2003.00295,
section 2): what its round moved, which it sends anyhow, so that a sensitivity costs no byte. Only the gateway has all
of these.
"""

from __future__ import annotations

from enum import StrEnum


class Score(StrEnum):
    """What weights are compared by."""

    MAGNITUDE = "magnitude"
    """|w|."""
    SENSITIVITY = "sensitivity"
    """The sum over agents of n_k / n |w g_k|, n_k being the examples and g_k the pseudo-gradient of agent k."""
    SIGNED_SENSITIVITY = "signed-sensitivity"
    """|w times the sum over agents of n_k / n g_k|: where agents pull a weight different ways it counts for less."""
