"""How a run's models travel: whole ones in a value scheme, and, if there is one, by a chain from version to version.

Its description stands in a run's book and in assignments: ``fp16``, or ``fp16 + mask | topk(0.01) | ternary | rice``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from fedprune.codecs.codec import Codec
from fedprune.codecs.model_bytes import Values, read_model
from fedprune.codecs.model_history import NOTHING_SENT, read_sent
from fedprune.codecs.notation import parse_delta_codec
from fedprune.codecs.reader import Reader
from fedprune.model.tensors import Array, Mask, TensorTable

_JOINT = " + "


class DecodedModel(NamedTuple):
    """The weights and the mask, as `decode_model` returns them, and what the last deltas to this version sent."""

    weights: dict[str, Array]
    mask: Mask
    sent: bytes


@dataclass(frozen=True, eq=False)
class ModelCodec:
    """Every version of a model is rounded to `values`. `deltas` leads from one to the next; without it all go whole.

    Example:
        >>> codec = parse_model_codec("fp16 + mask|topk(0.010)|ternary|rice")
        >>> str(codec), codec.values.value, str(codec.deltas)
        ('fp16 + mask | topk(0.01) | ternary | rice', 'fp16', 'mask | topk(0.01) | ternary | rice')
    """

    values: Values
    deltas: Codec | None = None

    def __str__(self) -> str:
        return self.values if self.deltas is None else f"{self.values}{_JOINT}{self.deltas}"

    def decode(self, blob: bytes, table: TensorTable) -> DecodedModel:
        """Read a whole model, and what its last deltas sent if it goes by that.

        Args:
            blob: foreign bytes.
            table: the task's tensor table.

        Raises:
            ProtocolError: the bytes are not those of any model of this table.
        """
        reader, sent = Reader(blob), NOTHING_SENT
        weights, mask = read_model(reader, table)
        if self.deltas is not None and self.deltas.remembers:
            sent = read_sent(reader, table)
        reader.finish()
        return DecodedModel(weights, mask, sent)


def describe_model_codec(values: str, deltas: str | None) -> str:
    """The description of a model codec, of which `parse_model_codec` tells whether it makes sense."""
    return values if deltas is None else f"{values}{_JOINT}{deltas}"


def parted_model_codec(description: str) -> tuple[str, str | None]:
    """Undo `describe_model_codec`, whatever the words mean."""
    values, joint, deltas = description.partition(_JOINT)
    return values, deltas if joint else None


def parse_model_codec(description: str) -> ModelCodec:
    """Make the model codec that a description names; `str` of it is the one spelling of that description.

    Raises:
        ValueError: it names a value scheme or a word that is not known here, or a chain that makes no sense.
    """
    name, chain = parted_model_codec(description)
    if name not in set(Values):
        raise ValueError(f"model codec: the value scheme {name[:40]!r} is unknown; known are {', '.join(Values)}")
    return ModelCodec(Values(name), None if chain is None else parse_delta_codec(chain))
