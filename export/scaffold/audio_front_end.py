"""The front-end under which recordings have the shape that a model takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from export.scaffold.questions import Questions
from fedprune.data.audio.wav import wav_length
from fedprune.data.description import LogMel, Mfcc, Recordings, Waveform
from fedprune.data.skipped import Unusable
from fedprune.errors import ConfigurationError, DataError, TaskError

_LOOKED_AT = 200
"""Recordings of each class whose headers are read."""

_FRAMES_MS = (
    (40.0, 20.0), (30.0, 20.0), (30.0, 10.0), (25.0, 10.0), (32.0, 16.0), (64.0, 32.0), (50.0, 25.0), (20.0, 10.0),
    (40.0, 40.0), (30.0, 30.0), (32.0, 32.0), (64.0, 64.0),
)  # fmt: skip
"""Usual windows of a frame and steps from one to the next, the most usual first."""

_MOST_COEFFICIENTS = 20
"""More values of a frame are taken for mel bands, fewer for cepstral coefficients."""

_BANDS = 40
"""Mel bands of which cepstral coefficients are made, at least."""

_HIGHEST_HZ = 4000.0


@dataclass(frozen=True)
class Sound:
    """What most recordings are: samples a second, and how long one is."""

    rate_hz: int
    seconds: float


def hear(folders: dict[str, list[Path]], origin: str) -> Sound:
    """Raises `DataError` if none of the recordings can be read."""
    rates: Counter[int] = Counter()
    lengths: list[float] = []
    for file in (file for files in folders.values() for file in islice(files, _LOOKED_AT)):
        try:
            rate, samples = wav_length(file)
        except Unusable:
            continue  # reading them for good names it
        rates[rate] += 1
        lengths.append(samples / rate if rate else 0.0)
    if not lengths:
        raise DataError(f"{origin}: none of its recordings is a WAV file with PCM samples; convert them")
    return Sound(rates.most_common(1)[0][0], sorted(lengths)[len(lengths) // 2])


def recordings_for(shape: tuple[int, ...], labels: tuple[str, ...], sound: Sound, questions: Questions) -> Recordings:
    """The description whose examples have `shape`, but perhaps for a channel. Raises `TaskError` if none has."""
    kinds = [kind] if (kind := questions.given("front-end")) else ["log-mel", "mfcc", "waveform"]
    seconds = _seconds(questions)
    wanted = _plain(shape)
    for tried in _candidates(wanted, labels, sound, kinds, seconds):
        if _plain(tried.example_shape) == wanted:
            return tried
    raise TaskError(
        f"no usual front-end makes {list(shape)} of {seconds or sound.seconds:.3g} s at {sound.rate_hz} samples a "
        "second; say another --seconds or --front-end, or let the model take [49, 40, 1]: log-mel of 1 s"
    )


def _candidates(
    shape: tuple[int, ...], labels: tuple[str, ...], sound: Sound, kinds: list[str], given: float | None
) -> Iterator[Recordings]:
    """Descriptions that may have the shape; the lengths that are tried are round ones near that of the recordings."""
    lengths = (
        [given] if given else sorted({round(sound.seconds, 1), float(round(sound.seconds)), sound.seconds} - {0.0})
    )
    if len(shape) == 1 and "waveform" in kinds:
        yield Recordings(labels, sound.rate_hz, given or shape[0] / sound.rate_hz, Waveform())
    if len(shape) != 2:
        return
    values = shape[1]
    highest = min(_HIGHEST_HZ, sound.rate_hz / 2)
    for seconds in lengths:
        for window_ms, stride_ms in _FRAMES_MS:
            frames = {"window_ms": window_ms, "stride_ms": stride_ms, "high_hz": highest}
            with suppress(ValueError):  # not as long as a frame, or too much of it
                if "mfcc" in kinds and (values <= _MOST_COEFFICIENTS or "log-mel" not in kinds):
                    mfcc = Mfcc(**frames, bands=max(_BANDS, values), coefficients=values)
                    yield Recordings(labels, sound.rate_hz, seconds, mfcc)
                elif "log-mel" in kinds:
                    yield Recordings(labels, sound.rate_hz, seconds, LogMel(**frames, bands=values))


def _seconds(questions: Questions) -> float | None:
    text = questions.given("seconds")
    try:
        seconds = None if text is None else float(text)
    except ValueError:
        seconds = 0.0
    if seconds is not None and not 0 < seconds <= 3600:
        raise ConfigurationError(f"--seconds {text!r}: give how much of each recording is taken, as 1 or 2.5")
    return seconds


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:-1] if shape[-1:] == (1,) else shape
