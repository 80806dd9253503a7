"""Front-ends give what TensorFlow's own signal processing gives, computed there in float64 too."""

from __future__ import annotations

import numpy as np
import pytest

from fedprune.data.audio.front_end import features, mel_weights
from fedprune.data.description import LogMel, Mfcc

_FRONT_ENDS = [
    (16_000, LogMel()),
    (16_000, LogMel(window_ms=25, stride_ms=10, bands=80, low_hz=0, high_hz=8000)),
    (8_000, LogMel(window_ms=32, stride_ms=32, bands=20, low_hz=60, high_hz=3800)),
    (16_000, Mfcc()),
    (44_100, Mfcc(window_ms=30, stride_ms=15, bands=64, coefficients=20, high_hz=16_000)),
]


@pytest.mark.parametrize(("rate_hz", "front_end"), _FRONT_ENDS)
def test_features_are_those_of_tensorflow(rate_hz: int, front_end: LogMel | Mfcc) -> None:
    import tensorflow as tf

    random = np.random.default_rng(7)
    time = np.arange(rate_hz) / rate_hz
    chirp = np.sin(2 * np.pi * (200 + 1500 * time) * time) * np.exp(-2 * time)
    sound = (0.5 * chirp + random.normal(0, 0.01, rate_hz)).astype(np.float32)

    window, stride = (round(rate_hz * ms / 1000) for ms in (front_end.window_ms, front_end.stride_ms))
    spectrum = tf.abs(tf.signal.stft(tf.constant(sound, tf.float64), window, stride))
    weights = tf.signal.linear_to_mel_weight_matrix(
        front_end.bands, spectrum.shape[-1], rate_hz, front_end.low_hz, front_end.high_hz, tf.float64
    )
    expected = tf.math.log(spectrum @ weights + 1e-6)
    if isinstance(front_end, Mfcc):
        expected = tf.signal.mfccs_from_log_mel_spectrograms(expected)[:, : front_end.coefficients]

    ours = mel_weights(
        front_end.fft_length(rate_hz) // 2 + 1, rate_hz, front_end.bands, front_end.low_hz, front_end.high_hz
    )
    np.testing.assert_allclose(ours, weights, rtol=0, atol=1e-6)
    np.testing.assert_allclose(features(sound, rate_hz, front_end)[..., 0], expected, rtol=0, atol=1e-4)
