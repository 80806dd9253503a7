"""The signature of exported files: the names of their inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass

from fedprune.network.description import Network


@dataclass(frozen=True)
class Signature:
    """Names, in the network's order: those of the model where there are several inputs or outputs. TensorFlow gives an
    output without a name its own."""

    inputs: tuple[str, ...] = ("x",)
    outputs: tuple[str, ...] = ("output_0",)


def signature_of(network: Network) -> Signature:
    return Signature(network.input_names or Signature.inputs, network.output_names or Signature.outputs)
