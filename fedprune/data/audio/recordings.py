"""Examples that are recordings in folders by class: WAV files, seen through a front-end."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedprune.data.audio.front_end import features
from fedprune.data.audio.wav import read_wav
from fedprune.data.dataset import Examples
from fedprune.data.description import Recordings
from fedprune.data.example_buffer import ExampleBuffer
from fedprune.data.folders import labelled_files, place_of
from fedprune.data.room import IN_MEMORY, Room
from fedprune.data.skipped import Skipped, Unusable
from fedprune.system.paths import path_text


def read_recordings(path: Path, recordings: Recordings, room: Room = IN_MEMORY) -> Examples:
    """x float32 `[recordings, frames, values, 1]`, y int64 `[recordings]`, of a directory of folders.

    Recordings that cannot be used are skipped and counted. Raises `DataError` if there is no other.
    """
    skipped = Skipped(path_text(path))
    files = labelled_files(path, recordings.labels, skipped)
    examples = ExampleBuffer(recordings.example_shape, np.float32, len(files), room, of_classes=True)
    for file, label in files:
        try:
            sound = read_wav(file, recordings.rate_hz, recordings.samples)
        except Unusable as unusable:
            skipped.add(place_of(file), unusable)
        else:
            examples.add(features(sound, recordings.rate_hz, recordings.front_end), label)
    return skipped.finish(examples)
