"""Accelerometer windows of people, each of whom moves in a way of their own: made here, with a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedprune.data import Dataset

SHAPE = (128, 3)
"""Samples (at 50 Hz) and axes of a window, in units of g."""

ACTIVITIES = ("walking", "upstairs", "downstairs", "sitting", "standing", "lying")

_RATE_HZ = 50.0
_GAITS = np.array(((1.0, 1.0, 0.5, 0.3), (0.88, 0.85, 0.35, 0.45), (1.08, 1.2, 0.75, 0.25)))
"""For each way of walking: frequency and amplitude over the person's own, and the shares of the second harmonic and of
the way forward."""
_TILTS_DEG = np.array((0.0, 8.0, -4.0, 42.0, 0.0, 88.0))
"""For each activity the trunk's angle to the vertical."""


@dataclass(frozen=True)
class _Person:
    """What is a person's own: steps per second, strength of a step in g, habits that change each activity, the way the
    sensor is worn (a rotation), and the sensor's noise in g."""

    step_hz: float
    strength: float
    gaits: NDArray[np.float64]
    tilts: NDArray[np.float64]
    worn: NDArray[np.float64]
    noise: float


def people(seed: int, first: int, count: int, windows: int) -> list[Dataset]:
    """`windows` windows of each of `count` people, the first of whom has the number `first`.

    Equal seeds and numbers are equal people, equal windows. x is float32 `[windows, 128, 3]` in g, y class numbers of
    `ACTIVITIES`, as many of each as there can be.
    """
    return [_windows(seed, number, windows) for number in range(first, first + count)]


def _windows(seed: int, number: int, count: int) -> Dataset:
    random = np.random.default_rng([seed, number])
    person = _person(random)
    y = random.permutation(np.arange(count) % len(ACTIVITIES))
    body = _moved(person, y, random) + _gravity(person, y, random)
    x = body @ person.worn.T + random.normal(0.0, person.noise, (count, *SHAPE))
    return Dataset(x.astype(np.float32), y.astype(np.int64), f"person {number}")


def _person(random: np.random.Generator) -> _Person:
    return _Person(
        step_hz=random.uniform(1.5, 2.3),
        strength=0.3 * np.exp(random.normal(0.0, 0.3)),
        gaits=_GAITS * np.exp(random.normal(0.0, 0.08, _GAITS.shape)),
        tilts=_TILTS_DEG + random.normal(0.0, 6.0, len(_TILTS_DEG)),
        worn=_rotation(random.normal(0.0, np.deg2rad(10.0), 3)),
        noise=random.uniform(0.02, 0.08),
    )


def _rotation(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation about `vector` by its length in radians `[3, 3]` (Rodrigues' formula)."""
    angle = float(np.linalg.norm(vector))
    x, y, z = vector / angle
    cross = np.array(((0.0, -z, y), (z, 0.0, -x), (-y, x, 0.0)))
    rotation: NDArray[np.float64] = np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
    return rotation


def _moved(person: _Person, y: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.float64]:
    """The body's own acceleration `[windows, 128, 3]`: forward, sideways, up. Who does not walk sways a little."""
    count, time = len(y), np.arange(SHAPE[0]) / _RATE_HZ
    walks = y < len(_GAITS)
    frequency, amplitude, second, forward = person.gaits[np.where(walks, y, 0)].T
    frequency = person.step_hz * frequency * np.exp(random.normal(0.0, 0.06, count))
    amplitude = np.where(walks, person.strength * amplitude * np.exp(random.normal(0.0, 0.15, count)), 0.0)
    phase = 2 * np.pi * (frequency[:, None] * time + random.uniform(0.0, 1.0, count)[:, None])
    up = np.sin(phase) + second[:, None] * np.sin(2 * phase + 0.7)
    ahead = forward[:, None] * np.cos(phase)
    sideways = 0.3 * np.sin(phase / 2)  # a step to the left, one to the right
    sway = 0.02 * np.sin(2 * np.pi * random.uniform(0.2, 0.6, count)[:, None] * time)
    steps: NDArray[np.float64] = amplitude[:, None, None] * np.stack((ahead, sideways, up), axis=2)
    return steps + sway[:, :, None]


def _gravity(person: _Person, y: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.float64]:
    """Gravity as the trunk sees it `[windows, 1, 3]`."""
    tilt = np.deg2rad(person.tilts[y] + random.normal(0.0, 5.0, len(y)))
    return np.stack((np.sin(tilt), np.zeros(len(y)), np.cos(tilt)), axis=1)[:, None]
