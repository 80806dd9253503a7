"""Draws from the gamma and Dirichlet distributions, made from keyed integers alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedprune.model.randomness import Keyed


def log_dirichlet(concentration: NDArray[np.float64], keyed: Keyed) -> NDArray[np.float64]:
    """The logarithms of one draw of proportions from Dirichlet(`concentration`), `[k]`, all > 0.

    Logarithms, since with small concentrations proportions are smaller than a float can be.
    Source: L. Devroye 1986, "Non-uniform random variate generation", XI.4: gamma variates over their sum.
    """
    gammas = log_gamma_variates(concentration, keyed)
    largest = gammas.max()
    return np.asarray(gammas - (largest + np.log(np.exp(gammas - largest).sum())))


def log_gamma_variates(shape: NDArray[np.float64], keyed: Keyed) -> NDArray[np.float64]:
    """The logarithm of one draw from Gamma(a, 1) for each a > 0 in `shape`, `[k]`.

    Exact rejection after G. Marsaglia and W. W. Tsang 2000, "A simple method for generating gamma variables",
    sections 2 to 4, with their boost Gamma(a) = Gamma(a + 1) U^(1/a) for every a.
    """
    d = (shape + 1) - 1 / 3
    c = 1 / np.sqrt(9 * d)
    log_gamma = np.empty_like(d)
    pending = np.arange(len(d))
    while len(pending):
        normal = _normals(len(pending), keyed)
        v = (1 + c[pending] * normal) ** 3
        log_v = np.log(v, where=v > 0, out=np.full_like(v, -np.inf))
        accepted = np.log(open_fractions(len(pending), keyed)) < normal**2 / 2 + d[pending] * (1 - v + log_v)
        log_gamma[pending[accepted]] = np.log(d[pending[accepted]]) + log_v[accepted]
        pending = pending[~accepted]
    return log_gamma + np.log(open_fractions(len(d), keyed)) / shape


def open_fractions(count: int, keyed: Keyed) -> NDArray[np.float64]:
    """`count` float64 in (0, 1), never either end: the middles of 2^52 equal intervals."""
    return ((keyed.integers(count) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _normals(count: int, keyed: Keyed) -> NDArray[np.float64]:
    """Standard normal draws. Source: G. E. P. Box and M. E. Muller 1958, the cosine of each pair."""
    radius = np.sqrt(-2 * np.log(open_fractions(count, keyed)))
    cosine = np.cos(2 * np.pi * open_fractions(count, keyed))
    return np.asarray(radius * cosine)
