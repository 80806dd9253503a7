"""The description of a codec: words joined by bars, which a person writes and a message carries.

>>> str(parse_codec("mask|topk( 0.010 )|ternary|rice"))
'mask | topk(0.01) | ternary | rice'
>>> parse_codec("mask | ternary | topk(0.01) | rice")
Traceback (most recent call last):
ValueError: codec: topk must stand before ternary
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Any

from fedprune.codecs.budget import Budget
from fedprune.codecs.clip import Clip
from fedprune.codecs.codec import Codec
from fedprune.codecs.context import ContextCoder
from fedprune.codecs.feedback import Feedback
from fedprune.codecs.floats import Fp16, Fp32
from fedprune.codecs.integers import Int8
from fedprune.codecs.low_rank import LowRank
from fedprune.codecs.positions import Bitmap
from fedprune.codecs.quantisation import Quantisation
from fedprune.codecs.random_mask import RandomMask
from fedprune.codecs.rice import Rice
from fedprune.codecs.rotation import Rotation
from fedprune.codecs.subsample import Subsample
from fedprune.codecs.ternary import Ternary
from fedprune.codecs.threshold import Threshold
from fedprune.codecs.topk import TopK

DEFAULT_CODEC = "mask | feedback(2) | int8"

LONGEST_DESCRIPTION = 200
"""Characters of a description; the longest that makes sense has half as many."""

_EXAMPLE = f"for example {DEFAULT_CODEC!r}"


class _Place(IntEnum):
    """The order of a chain's words. At most one word is at each place."""

    MASK = 0
    CLIP = 1
    FEEDBACK = 2
    CHOICE = 3
    TRANSFORM = 4
    VALUES = 5
    POSITIONS = 6


_DOES = {
    _Place.MASK: "restrict an update to the mask",
    _Place.CLIP: "clip",
    _Place.FEEDBACK: "feed errors back",
    _Place.CHOICE: "choose which values are sent",
    _Place.TRANSFORM: "turn values into coefficients",
    _Place.VALUES: "say how values are coded",
    _Place.POSITIONS: "code positions",
}


@dataclass(frozen=True)
class _Meaning:
    """A word's place, its link, and the kind of its argument: `float`, `int`, or None if it takes none."""

    place: _Place
    make: Callable[..., Any]
    argument: type[float] | type[int] | None = None


_MEANINGS = {
    "mask": _Meaning(_Place.MASK, lambda: None),
    "clip": _Meaning(_Place.CLIP, Clip, float),
    "feedback": _Meaning(_Place.FEEDBACK, lambda cap: Feedback(cap, Fp32()), float),
    "topk": _Meaning(_Place.CHOICE, TopK, float),
    "budget": _Meaning(_Place.CHOICE, Budget, int),
    "threshold": _Meaning(_Place.CHOICE, Threshold, float),
    "random_mask": _Meaning(_Place.CHOICE, RandomMask, float),
    "subsample": _Meaning(_Place.CHOICE, Subsample, float),
    "rotate": _Meaning(_Place.TRANSFORM, Rotation),
    "low_rank": _Meaning(_Place.TRANSFORM, LowRank, int),
    "fp32": _Meaning(_Place.VALUES, Fp32),
    "fp16": _Meaning(_Place.VALUES, Fp16),
    "int8": _Meaning(_Place.VALUES, Int8),
    "quantise": _Meaning(_Place.VALUES, Quantisation, int),
    "ternary": _Meaning(_Place.VALUES, Ternary),
    "bitmap": _Meaning(_Place.POSITIONS, lambda: lambda *_: Bitmap()),
    "rice": _Meaning(_Place.POSITIONS, lambda: lambda *_: Rice()),
    "context": _Meaning(_Place.POSITIONS, lambda: ContextCoder),
    "history": _Meaning(_Place.POSITIONS, lambda: None),
}

_SCATTERED = ("topk", "budget", "threshold")
"""Choices of places that the receiver does not know."""

_SMALL = ("context", "history")
"""Coders for small updates."""

_WORD = re.compile(r"([a-z0-9_]+)(?:\(\s*([^()\s]*)\s*\))?")
_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,3})?")
_INTEGER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class _Word:
    """A word of a chain, its meaning and what it makes. `text` is its one spelling."""

    name: str
    text: str
    meaning: _Meaning
    made: Any


def parse_codec(description: str) -> Codec:
    """Make the codec of updates that a description names; `str` of it is the one spelling of that description.

    Raises:
        ValueError: it is no chain of words that are known here, or one that makes no sense; the message says why.
    """
    codec = _parsed(description)
    if codec.remembers and codec.feedback is None:
        raise ValueError("codec: history goes by what an agent owes since it sent something, too; it needs feedback")
    return codec


def parse_delta_codec(description: str) -> Codec:
    """Make the codec of deltas between models that a description names. Raises as `parse_codec` does."""
    codec = _parsed(description)
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


def _parsed(description: str) -> Codec:
    if len(description) > LONGEST_DESCRIPTION:
        raise ValueError(f"codec: {len(description)} characters; at most {LONGEST_DESCRIPTION} are allowed")
    words = [_word(text.strip()) for text in description.split("|")]
    _check_order(words)
    _check_sense({word.meaning.place: word.name for word in words})
    made = {word.meaning.place: word.made for word in words}
    return Codec(
        description=" | ".join(word.text for word in words),
        before=_those(made, _Place.CLIP),
        feedback=made[_Place.FEEDBACK].cap if _Place.FEEDBACK in made else None,
        after=_those(made, _Place.CHOICE, _Place.TRANSFORM),
        values=made[_Place.VALUES],
        positions=made.get(_Place.POSITIONS),
        remembers=words[-1].name == "history",
    )


def _those(made: dict[_Place, Any], *places: _Place) -> tuple[Any, ...]:
    return tuple(made[place] for place in places if place in made)


def _word(text: str) -> _Word:
    found = _WORD.fullmatch(text)
    if found is None or found[1] not in _MEANINGS:
        raise ValueError(f"codec: {text[:40]!r} is unknown; known are {', '.join(_MEANINGS)}, joined by |, {_EXAMPLE}")
    name, argument = found[1], found[2]
    meaning = _MEANINGS[name]
    if meaning.argument is None:
        if argument is not None:
            raise ValueError(f"codec: {name} takes no number: write {name} alone")
        return _Word(name, name, meaning, meaning.make())
    pattern, wanted = (_INTEGER, "a whole number") if meaning.argument is int else (_NUMBER, "a number")
    if argument is None or not pattern.fullmatch(argument):
        raise ValueError(f"codec: {name} needs {wanted} in brackets after it, not {argument or 'nothing'}")
    number = meaning.argument(argument)
    try:
        made = meaning.make(number)
    except ValueError as error:
        raise ValueError(f"codec: {error}") from None
    return _Word(name, f"{name}({str(number).removesuffix('.0')})", meaning, made)


def _check_order(words: list[_Word]) -> None:
    if words[0].meaning.place is not _Place.MASK:
        raise ValueError("codec: it must begin with mask, since what the mask prunes is not sent")
    for first, second in pairwise(words):
        if first.meaning.place is second.meaning.place:
            raise ValueError(f"codec: {first.name} and {second.name} both {_DOES[first.meaning.place]}; take one")
        if first.meaning.place > second.meaning.place:
            raise ValueError(f"codec: {second.name} must stand before {first.name}")


def _check_sense(names: dict[_Place, str]) -> None:
    """Refuse chains whose words are in order and do not go together."""
    choice, values, positions = (names.get(place) for place in (_Place.CHOICE, _Place.VALUES, _Place.POSITIONS))
    transform = names.get(_Place.TRANSFORM)
    coders = ", ".join(name for name, meaning in _MEANINGS.items() if meaning.place is _Place.POSITIONS)
    if values is None:
        formats = ", ".join(name for name, meaning in _MEANINGS.items() if meaning.place is _Place.VALUES)
        raise ValueError(f"codec: nothing says how values are coded; add one of {formats}")
    if choice in _SCATTERED:
        if positions is None:
            raise ValueError(f"codec: {choice} chooses positions, which must be coded; add one of {coders} at the end")
    elif positions is not None:
        raise ValueError(
            f"codec: {positions} codes positions that topk, budget or threshold chose; there are none here"
        )
    if choice == "threshold" and positions in _SMALL:
        raise ValueError(
            f"codec: {positions} takes a step of Python for each value that is sent, and threshold bounds no number of"
            " them; take topk or budget, or rice"
        )
    if positions == "history" and values != "ternary":
        raise ValueError("codec: history codes signs by those that were sent before; it needs ternary")
    if values == "ternary" and (choice not in _SCATTERED or transform is not None):
        raise ValueError(
            "codec: ternary sends one magnitude for all; topk, budget or threshold must stand right before it"
        )
    if transform == "low_rank" and choice is not None:
        raise ValueError(f"codec: low_rank makes a matrix of a tensor's values, where {choice} leaves gaps; take one")
    if choice == "subsample" and _Place.FEEDBACK in names:
        raise ValueError(
            "codec: subsample sends more than was wanted, and feedback would make that grow; take random_mask"
        )
