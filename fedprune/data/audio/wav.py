"""WAV files with PCM samples of 8, 16, 24 or 32 bits, read through the standard library's `wave`."""

from __future__ import annotations

import struct
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedprune.data.folders import check_size
from fedprune.data.skipped import Fault, Unusable, brief
from fedprune.model.tensors import Array

_MAX_CHANNELS = 32
_WIDTHS = (1, 2, 3, 4)
# What `wave` and struct raise for damaged or hostile bytes.
_DAMAGED = (wave.Error, EOFError, OSError, struct.error, ValueError, OverflowError, RuntimeError, ZeroDivisionError)


def read_wav(path: Path, rate_hz: int, samples: int) -> Array:
    """The first `samples` samples, float32 `[samples]` in -1 to 1; silence fills up what a shorter file lacks.

    Channels are averaged. Raises `Unusable` for a file that is damaged, or was recorded at another rate.
    """
    check_size(path)
    try:
        with path.open("rb") as stream, wave.open(stream) as file:
            sound = _first_samples(file, rate_hz, samples)
    except _DAMAGED as error:
        raise Unusable(
            Fault.DAMAGED,
            f"not a WAV file with PCM samples ({brief(error)}); convert it, as with "
            "`ffmpeg -i in.wav -c:a pcm_s16le out.wav`, or remove it",
        ) from error
    padded = np.zeros(samples, np.float32)
    padded[: len(sound)] = sound
    return padded


def wav_length(path: Path) -> tuple[int, int]:
    """The samples a second that a file's header tells, and how many there are. Raises `Unusable`."""
    check_size(path)
    try:
        with path.open("rb") as stream, wave.open(stream) as file:
            return file.getframerate(), file.getnframes()
    except _DAMAGED as error:
        raise Unusable(
            Fault.DAMAGED, f"not a WAV file with PCM samples ({brief(error)}); convert or remove it"
        ) from error


def _first_samples(file: wave.Wave_read, rate_hz: int, samples: int) -> NDArray[np.float64]:
    """At most `samples` samples. The header is not believed: no more is read than is wanted."""
    channels, width = file.getnchannels(), file.getsampwidth()
    if file.getframerate() != rate_hz:
        raise Unusable(
            Fault.RATE,
            f"{file.getframerate()} samples a second, the task takes {rate_hz}; convert it, as with "
            f"`ffmpeg -i in.wav -ar {rate_hz} out.wav`",
        )
    if not 1 <= channels <= _MAX_CHANNELS or width not in _WIDTHS:
        raise wave.Error(f"{channels} channels of {8 * width} bits")
    frames = min(samples, file.getnframes())
    blob = file.readframes(frames)
    if not frames or len(blob) < frames * channels * width:
        raise Unusable(Fault.DAMAGED, "it ends before its last sample; record or convert it again, or remove it")
    mono: NDArray[np.float64] = _decoded(blob, width).reshape(frames, channels).mean(axis=1)
    return mono


def _decoded(blob: bytes, width: int) -> NDArray[np.float64]:
    """Samples of `width` bytes, little-endian; those of one byte are unsigned."""
    if width == 1:
        return np.frombuffer(blob, np.uint8).astype(np.float64) / 128.0 - 1.0
    if width == 3:
        wide = np.zeros((len(blob) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(blob, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0].astype(np.float64) / 2.0**31
    return np.frombuffer(blob, f"<i{width}").astype(np.float64) / 2.0 ** (8 * width - 1)
