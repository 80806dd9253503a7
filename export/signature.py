"""The signature of exported files: the names of their inputs and outputs."""

from __future__ import annotations

from fedprune.network.description import Network

ONLY_INPUT = "x"
ONLY_OUTPUT = "output_0"
"""TensorFlow's own name of an output without one."""


def signature_of(network: Network) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of inputs and outputs, in the network's order: those of the model where there are several."""
    return network.input_names or (ONLY_INPUT,), network.output_names or (ONLY_OUTPUT,)
