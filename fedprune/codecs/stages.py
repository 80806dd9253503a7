"""Byte stages, and the one way to join them.

A stage takes something out of a vector, leaves it behind as *side bytes*, and hands on a shorter vector. A coder is a
stage that hands on nothing, or a chain that ends in one. A chain of stages is a stage again:

    >>> from fedprune.codecs.positions import Bitmap, Positions
    >>> from fedprune.codecs.values import Int8
    >>> coder = chain(Positions(Bitmap()), Int8())
    >>> vector = np.array([0.5, ABSENT, ABSENT, -1.0], np.float32)
    >>> payload = encode(coder, vector)
    >>> len(payload)  # one byte of bitmap, four of scale, one for each value
    7
    >>> decode(coder, Reader(payload), 4).round(1).tolist()
    [0.5, nan, nan, -1.0]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.reader import Reader

Vector = NDArray[np.float32]
"""A float32 array of one dimension."""

ABSENT = np.float32(np.nan)
"""Marks in a vector a coordinate that is not sent. It never travels: what is sent is finite."""

Restore = Callable[[Vector], Vector]
"""Puts back into a decoded vector what a stage took out."""


class Stage(Protocol):
    """One reversible step from a vector towards bytes."""

    def encode(self, vector: Vector) -> tuple[bytes, Vector]:
        """The side bytes, and the vector for the next stage."""

    def read(self, reader: Reader, count: int) -> tuple[Restore, int]:
        """Read the side bytes of a vector of `count`: how to restore it, and the length of the next stage's vector.

        Raises `ProtocolError` for bytes that `encode` could not have left.
        """


def chain(*stages: Stage) -> Stage:
    """Join stages into one.

    Args:
        stages: applied one after another to encode; chains are stages too.

    Returns:
        A stage whose side bytes are theirs in the same order.
    """
    return _Chain(stages)


class _Chain:
    def __init__(self, stages: tuple[Stage, ...]) -> None:
        self._stages = stages

    def encode(self, vector: Vector) -> tuple[bytes, Vector]:
        sides = []
        for stage in self._stages:
            side, vector = stage.encode(vector)
            sides.append(side)
        return b"".join(sides), vector

    def read(self, reader: Reader, count: int) -> tuple[Restore, int]:
        restores = []
        for stage in self._stages:
            restore, count = stage.read(reader, count)
            restores.append(restore)

        def restore_all(vector: Vector) -> Vector:
            for restore in reversed(restores):
                vector = restore(vector)
            return vector

        return restore_all, count


def encode(coder: Stage, vector: Vector) -> bytes:
    """Write a vector.

    Args:
        coder: a stage that hands on nothing.
        vector: float32 `[count]`, `ABSENT` where a coordinate is not sent.

    Returns:
        The side bytes of all its stages.

    Raises:
        ValueError: the coder leaves values that no stage wrote.
    """
    payload, rest = coder.encode(vector)
    if rest.size:
        raise ValueError("a coder must end with a value stage")
    return payload


def decode(coder: Stage, reader: Reader, count: int) -> Vector:
    """Read what `encode` wrote.

    Args:
        coder: the one that wrote it.
        reader: stands where the vector's bytes begin; is left where they end.
        count: the vector's length.

    Returns:
        The vector, up to what the coder loses. Encoding it again gives the same bytes.

    Raises:
        ProtocolError: the bytes are not what the coder writes for any vector of `count`.
        ValueError: the coder leaves values that no stage wrote.
    """
    restore, rest = coder.read(reader, count)
    if rest:
        raise ValueError("a coder must end with a value stage")
    return restore(np.empty(0, np.float32))
