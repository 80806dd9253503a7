"""Examples that are recordings in folders by class: WAV files, seen through a front-end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from fedprune.data.audio.front_end import FrontEnd, LogMel, Mfcc, Waveform, features, features_shape, fft_length
from fedprune.data.audio.wav import read_wav
from fedprune.data.dataset import Dataset
from fedprune.data.example_buffer import ExampleBuffer
from fedprune.data.folders import labelled_files, place_of
from fedprune.data.labels import LabelNames, check_unique
from fedprune.data.normalization import Normalization
from fedprune.data.skipped import Skipped, Unusable
from fedprune.system.paths import path_text

MAX_SAMPLES = 2**22
"""Samples of a recording: 4 minutes at 16 kHz."""

MAX_SPECTRUM = 2**22
"""Frames, or mel bands, times the length of a Fourier transform: 32 MB in float64."""


class Recordings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="form", tag="recordings"):
    """A recording is an example of the class that its folder is named after.

    It must have `rate_hz` samples a second. The first `seconds` of it are taken, and silence for what it lacks.
    """

    labels: Annotated[LabelNames, msgspec.Meta(min_length=1)]
    rate_hz: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 16_000
    seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 1.0
    front_end: FrontEnd = LogMel()
    normalize: Normalization | None = None

    def __post_init__(self) -> None:
        check_unique("labels", self.labels)
        if self.samples > MAX_SAMPLES:
            raise ValueError(f"{self.samples} samples, at most {MAX_SAMPLES} are taken; shorten seconds")
        if min(self.example_shape) < 1:
            raise ValueError(f"{self.seconds:g} seconds are shorter than a frame of the front-end; lengthen them")
        if not isinstance(self.front_end, Waveform):
            self._check_spectrum(self.front_end)

    @property
    def samples(self) -> int:
        return round(self.seconds * self.rate_hz)

    @property
    def example_shape(self) -> tuple[int, ...]:
        return features_shape(self.samples, self.rate_hz, self.front_end)

    def _check_spectrum(self, front_end: LogMel | Mfcc) -> None:
        length = fft_length(self.rate_hz, front_end)
        if front_end.high_hz > self.rate_hz / 2:
            raise ValueError(f"high_hz {front_end.high_hz:g} is above half of rate_hz, {self.rate_hz / 2:g}; lower it")
        if self.example_shape[0] * length > MAX_SPECTRUM:
            raise ValueError(f"{self.example_shape[0]} frames are too many; lengthen stride_ms or shorten seconds")
        if front_end.bands * length > MAX_SPECTRUM:
            raise ValueError(
                f"{front_end.bands} bands of so long a window are too many; take fewer, or shorten window_ms"
            )


def read_recordings(path: Path, recordings: Recordings) -> Dataset:
    """x float32 `[recordings, frames, values, 1]`, y int64 `[recordings]`, of a directory of folders.

    Recordings that cannot be used are skipped and counted. Raises `DataError` if there is no other.
    """
    skipped = Skipped(path_text(path))
    files = labelled_files(path, recordings.labels, skipped)
    examples = ExampleBuffer(recordings.example_shape, np.float32, len(files), of_classes=True)
    for file, label in files:
        try:
            sound = read_wav(file, recordings.rate_hz, recordings.samples)
        except Unusable as unusable:
            skipped.add(place_of(file), unusable)
        else:
            examples.add(features(sound, recordings.rate_hz, recordings.front_end), label)
    return skipped.finish(examples)
