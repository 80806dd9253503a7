"""Front-ends: from sound to log-mel spectrograms and MFCCs, in numpy alone.

The same functions run on devices that train and beside the exported model. Their definitions are those of `tf.signal`
(TensorFlow 2.21: `stft`, `linear_to_mel_weight_matrix`, `mfccs_from_log_mel_spectrograms`). Everything is computed in
float64 and rounded once, so that devices agree but for the last bit of some numbers.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedprune.data.description import FrontEnd, LogMel, Mfcc, Waveform
from fedprune.model.tensors import Array

_LOG_FLOOR = 1e-6
"""Added before the logarithm: silence is log(1e-6)."""

_FILTERS_KEPT = 2
"""Tables of mel weights that are kept: a task has one."""

_Wide = NDArray[np.float64]


def features(samples: Array, rate_hz: int, front_end: FrontEnd) -> Array:
    """What a model takes of one recording.

    Args:
        samples: float32 `[samples]`, -1 to 1, at least a frame of them.
        rate_hz: samples per second.
        front_end: what to compute.

    Returns:
        float32 `[frames, values, 1]`, or `[samples, 1]` of a waveform.

    Example:
        >>> second = np.sin(np.arange(16_000) * 0.1).astype(np.float32)
        >>> features(second, 16_000, Mfcc()).shape
        (49, 10, 1)
    """
    if isinstance(front_end, Waveform):
        return samples[:, None]
    spectrum = _magnitudes(samples, rate_hz, front_end)
    weights = mel_weights(spectrum.shape[1], rate_hz, front_end.bands, front_end.low_hz, front_end.high_hz)
    mel = _product(spectrum, weights)
    values = np.log(mel + _LOG_FLOOR)
    if isinstance(front_end, Mfcc):
        values = _product(values, _cosines(front_end.bands, front_end.coefficients))
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
    window, stride = front_end.lengths(rate_hz)
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), window)[::stride]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / (window - window % 2))  # periodic if even, as there
    magnitudes: _Wide = np.abs(np.fft.rfft(frames * hann, front_end.fft_length(rate_hz)))
    return magnitudes


def _product(rows: _Wide, columns: _Wide) -> _Wide:
    """The matrix product, in one thread: on so small ones a library's threads take most of the time."""
    product: _Wide = np.einsum("ij,jk->ik", rows, columns)
    return product


def _cosines(bands: int, coefficients: int) -> _Wide:
    """The DCT-II as HTK scales it `[bands, coefficients]`."""
    angles = np.pi / bands * (np.arange(bands)[:, None] + 0.5) * np.arange(coefficients)
    scaled: _Wide = np.cos(angles) * np.sqrt(2.0 / bands)
    return scaled


def _mel(hertz: _Wide) -> _Wide:
    mel: _Wide = 1127.0 * np.log1p(hertz / 700.0)
    return mel
