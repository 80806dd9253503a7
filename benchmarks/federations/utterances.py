"""Recordings of spoken keywords, made here: WAV files in folders. A word is how its three formants move."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WORDS = ("yes", "no", "up", "down", "left", "right", "stop", "go")
RATE_HZ, SECONDS = 8000, 0.5
SHAPE = (24, 20, 1)
"""Frames, mel bands and one channel."""

_FORMANTS, _KNOTS = 3, 4
_LOWEST_HZ, _HIGHEST_HZ = 250.0, 3400.0
_NOISE = 0.5
"""Standard deviation of each sample; a formant's amplitude is 1 on average."""
_LANGUAGE = 20_261_127
"""Seeds the words: they are the same whoever speaks them."""

DATA = f"""\
form = "recordings"
labels = {list(WORDS)}
rate_hz = {RATE_HZ}
seconds = {SECONDS}
front_end = {{ kind = "log-mel", bands = {SHAPE[1]}, high_hz = {RATE_HZ / 2} }}
normalize = {{ kind = "standard", mean = [1.7], std = [0.75] }}
"""
"""The ``[data]`` table of a task that hears them."""


def uttered(seed: int, count: int) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """`count` words, each early or late, slow or fast, high or low, loud or soft, in noise: samples
    `[count, samples]` and places in `WORDS`, as many of each as there can be. Equal seeds give equal words.
    """
    random = np.random.default_rng(seed)
    y = random.permutation(np.arange(count) % len(WORDS))
    knots = np.random.default_rng(_LANGUAGE).uniform(0.0, 1.0, (len(WORDS), _FORMANTS, _KNOTS))
    samples = np.stack([_word(knots[word], random) for word in y])
    return samples, y.astype(np.int64)


def write_utterances(path: Path, samples: NDArray[np.int16], y: NDArray[np.int64]) -> None:
    """A folder for each word, with a file for each time that it was said."""
    for number, (sound, word) in enumerate(zip(samples, y, strict=True)):
        folder = path / WORDS[word]
        folder.mkdir(parents=True, exist_ok=True)
        with wave.open(str(folder / f"{number}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE_HZ)
            file.writeframes(sound.astype("<i2").tobytes())


def _word(knots: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.int16]:
    """Formants' places `[formants, knots]` are of logarithms of frequencies, from the lowest to the highest."""
    seconds = np.arange(round(RATE_HZ * SECONDS)) / RATE_HZ
    begin, length = random.uniform(0.02, 0.15), random.uniform(0.2, 0.3)
    place = (seconds - begin) / length
    heard = np.sin(np.pi * np.clip(place, 0.0, 1.0))
    at = np.clip(place, 0.0, 1.0) * (_KNOTS - 1)
    voice = random.normal(0.0, 0.08)
    sound = random.normal(0.0, _NOISE, seconds.size)
    for formant in knots:
        height = np.interp(at, np.arange(_KNOTS), formant) + voice
        hertz = _LOWEST_HZ * (_HIGHEST_HZ / _LOWEST_HZ) ** np.clip(height, 0.0, 1.0)
        phase = random.uniform(0.0, 2 * np.pi) + 2 * np.pi * np.cumsum(hertz) / RATE_HZ
        sound += random.uniform(0.6, 1.4) * heard * np.sin(phase)
    loudness = random.uniform(0.3, 1.0) * 4000.0
    return np.clip(np.rint(sound * loudness), -32768, 32767).astype(np.int16)
