"""How a run's models travel: whole ones in a value scheme, and, if there is one, by a chain from version to version.

Its description stands in a run's book and in assignments: ``fp16``, or ``fp16 + mask | topk(0.01) | ternary | rice``.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedprune.codecs.codec import Codec
from fedprune.codecs.model_bytes import Values
from fedprune.codecs.notation import parse_codec
from fedprune.codecs.subsample import Subsample

_JOINT = " + "


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


def describe_model_codec(values: str, deltas: str | None) -> str:
    """The description of a model codec, of which `parse_model_codec` tells whether it makes sense."""
    return values if deltas is None else f"{values}{_JOINT}{deltas}"


def parse_model_codec(description: str) -> ModelCodec:
    """Make the model codec that a description names; `str` of it is the one spelling of that description.

    Raises:
        ValueError: it names a value scheme or a word that is not known here, or a chain that makes no sense.
    """
    name, joint, chain = description.partition(_JOINT)
    if name not in set(Values):
        raise ValueError(f"model codec: the value scheme {name[:40]!r} is unknown; known are {', '.join(Values)}")
    return ModelCodec(Values(name), _parse_deltas(chain) if joint else None)


def _parse_deltas(description: str) -> Codec:
    codec = parse_codec(description)
    if codec.feedback is not None or codec.before:
        raise ValueError(
            "codec: of models nothing is clipped, and what a delta loses is always sent later, since the gateway keeps "
            "its own weights; leave clip and feedback out"
        )
    if any(isinstance(link, Subsample) for link in codec.after):
        raise ValueError(
            "codec: subsample sends more than was wanted, which would grow from delta to delta; take random_mask"
        )
    return codec
