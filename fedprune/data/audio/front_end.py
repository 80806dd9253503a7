"""Front-ends: from sound to log-mel spectrograms and MFCCs, in numpy alone.

The same functions run on devices that train and beside the exported model. Their definitions are those of `tf.signal`
(TensorFlow 2.21: `stft`, `linear_to_mel_weight_matrix`, `mfccs_from_log_mel_spectrograms`). Everything is computed in
float64 and rounded once, so that devices agree.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Array

_LOG_FLOOR = 1e-6
"""Added before the logarithm: silence is log(1e-6)."""

_FILTERS_KEPT = 2
"""Tables of mel weights that are kept: a task has one."""

_Wide = NDArray[np.float64]
_Milliseconds = Annotated[float, msgspec.Meta(gt=0, le=10_000)]
_Hertz = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
_Bands = Annotated[int, msgspec.Meta(ge=1, le=512)]


class LogMel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="log-mel"):
    """Logarithms of the magnitudes in `bands` triangular filters, spaced on HTK's mel scale from `low_hz` to `high_hz`.

    A frame is `window_ms` long, under a Hann window; the next one begins `stride_ms` later.
    """

    window_ms: _Milliseconds = 40.0
    stride_ms: _Milliseconds = 20.0
    bands: _Bands = 40
    low_hz: _Hertz = 20.0
    high_hz: _Hertz = 4000.0

    def __post_init__(self) -> None:
        _check_band(self.low_hz, self.high_hz)

    @property
    def values(self) -> int:
        """The numbers of a frame."""
        return self.bands


class Mfcc(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="mfcc"):
    """The first `coefficients` of the cosine transform (DCT-II) of what `LogMel` gives."""

    window_ms: _Milliseconds = 40.0
    stride_ms: _Milliseconds = 20.0
    bands: _Bands = 40
    low_hz: _Hertz = 20.0
    high_hz: _Hertz = 4000.0
    coefficients: _Bands = 10

    def __post_init__(self) -> None:
        _check_band(self.low_hz, self.high_hz)
        if self.coefficients > self.bands:
            raise ValueError(f"{self.coefficients} coefficients need as many bands, there are {self.bands}")

    @property
    def values(self) -> int:
        """The numbers of a frame."""
        return self.coefficients


class Waveform(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="waveform"):
    """The samples themselves, -1 to 1."""


FrontEnd = LogMel | Mfcc | Waveform


def features_shape(samples: int, rate_hz: int, front_end: FrontEnd) -> tuple[int, ...]:
    """The shape of what `features` gives: `[frames, values, 1]`, or `[samples, 1]` of a waveform."""
    if isinstance(front_end, Waveform):
        return (samples, 1)
    window, stride = _lengths(rate_hz, front_end)
    return (max(0, 1 + (samples - window) // stride), front_end.values, 1)


def fft_length(rate_hz: int, front_end: LogMel | Mfcc) -> int:
    """The smallest power of two that holds a frame."""
    return 1 << (_lengths(rate_hz, front_end)[0] - 1).bit_length()


def features(samples: Array, rate_hz: int, front_end: FrontEnd) -> Array:
    """What a model takes of one recording.

    Args:
        samples: float32 `[samples]`, -1 to 1, at least a frame of them.
        rate_hz: samples per second.
        front_end: what to compute.

    Returns:
        float32 of `features_shape`.

    Example:
        >>> second = np.sin(np.arange(16_000) * 0.1).astype(np.float32)
        >>> features(second, 16_000, Mfcc()).shape
        (49, 10, 1)
    """
    if isinstance(front_end, Waveform):
        return samples[:, None]
    spectrum = _magnitudes(samples, rate_hz, front_end)
    mel = spectrum @ mel_weights(spectrum.shape[1], rate_hz, front_end.bands, front_end.low_hz, front_end.high_hz)
    values = np.log(mel + _LOG_FLOOR)
    if isinstance(front_end, Mfcc):
        values = values @ _cosines(front_end.bands, front_end.coefficients)
    return values[..., None].astype(np.float32)


@lru_cache(maxsize=_FILTERS_KEPT)
def mel_weights(bins: int, rate_hz: int, bands: int, low_hz: float, high_hz: float) -> _Wide:
    """The weight of each of `bins` linear frequencies, 0 to rate_hz / 2, in each mel band `[bins, bands]`.

    Bin 0, the mean of the sound, counts in none. Source: Young et al., "The HTK Book", section 5.4.
    """
    frequencies = np.linspace(0.0, rate_hz / 2, bins)[1:, None]
    edges = np.linspace(float(_mel(np.array(low_hz))), float(_mel(np.array(high_hz))), bands + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (_mel(frequencies) - lower) / (centre - lower)
    falling = (upper - _mel(frequencies)) / (upper - centre)
    weights = np.pad(np.maximum(0.0, np.minimum(rising, falling)), ((1, 0), (0, 0)))
    weights.setflags(write=False)  # it is kept for the next recording
    return weights


def _magnitudes(samples: Array, rate_hz: int, front_end: LogMel | Mfcc) -> _Wide:
    """The short-time Fourier transform's magnitudes `[frames, bins]`."""
    window, stride = _lengths(rate_hz, front_end)
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), window)[::stride]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / (window - window % 2))  # periodic if even, as there
    magnitudes: _Wide = np.abs(np.fft.rfft(frames * hann, fft_length(rate_hz, front_end)))
    return magnitudes


def _lengths(rate_hz: int, front_end: LogMel | Mfcc) -> tuple[int, int]:
    """A frame's samples, and those from one frame to the next."""
    return (
        max(2, round(rate_hz * front_end.window_ms / 1000)),
        max(1, round(rate_hz * front_end.stride_ms / 1000)),
    )


def _cosines(bands: int, coefficients: int) -> _Wide:
    """The DCT-II as HTK scales it `[bands, coefficients]`."""
    angles = np.pi / bands * (np.arange(bands)[:, None] + 0.5) * np.arange(coefficients)
    scaled: _Wide = np.cos(angles) * np.sqrt(2.0 / bands)
    return scaled


def _mel(hertz: _Wide) -> _Wide:
    mel: _Wide = 1127.0 * np.log1p(hertz / 700.0)
    return mel


def _check_band(low_hz: float, high_hz: float) -> None:
    if high_hz - low_hz < 1.0:
        raise ValueError(f"high_hz {high_hz:g} must be above low_hz {low_hz:g}, by 1 at least")
