"""ERK, Erdős-Rényi-Kernel: small layers stay denser than large ones, by their shapes alone.

Mocanu et al. 2018 (arXiv 1707.04780, section "Sparse evolutionary training") for dense layers; Evci et al. 2020 (RigL,
arXiv 1911.11134, section 3, "Sparsity distribution") for kernels of convolutions too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping


def erk_densities(shapes: Mapping[str, tuple[int, ...]], density: float) -> dict[str, float]:
    """The part of each layer that is kept: c times the sum of its sizes over their product, at most 1.

    Args:
        shapes: those of kernels, all axes of which count: height, width, inputs and outputs of a convolution.
        density: the part that all layers together keep, in [0, 1].

    Returns:
        By name a fraction in [0, 1]. c is such that they are `density` of all weights. Sums are taken in the order of
        `shapes`, hence alike on every machine.

    Example:
        >>> densities = erk_densities({"conv": (3, 3, 1, 16), "dense": (800, 128)}, 0.1)
        >>> {name: round(each, 4) for name, each in densities.items()}
        {'conv': 1.0, 'dense': 0.0987}
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    whole: set[str] = set()
    while True:
        left = density * sum(sizes.values()) - sum(size for name, size in sizes.items() if name in whole)
        raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items() if name not in whole}
        share = sum(raw[name] * sizes[name] for name in raw)
        scale = max(left, 0.0) / share if share else 0.0
        over = {name for name, each in raw.items() if each * scale > 1.0}
        if not over:
            return {name: 1.0 if name in whole else raw[name] * scale for name in shapes}
        whole |= over
