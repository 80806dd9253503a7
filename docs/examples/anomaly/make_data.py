"""Makes spectra of a machine's vibration: of its normal state to learn from, and of a worn bearing to detect."""

import numpy as np

random = np.random.default_rng(1)
BANDS = np.arange(64)


def spectra(count: int, *, worn: bool) -> np.ndarray:
    """Float32 [count, 64], about 0 to 1: peaks at the speed's harmonics, and noise."""
    speed = random.uniform(7, 9, (count, 1))
    x = sum(np.exp(-(((BANDS - harmonic * speed) / 1.5) ** 2)) / harmonic for harmonic in (1, 2, 3))
    if worn:
        x = x + 0.6 * np.exp(-(((BANDS - 4.6 * speed) / 2) ** 2))
    return (x * random.uniform(0.8, 1, (count, 1)) + random.normal(0, 0.02, (count, 64))).clip(0, 1).astype(np.float32)


normal = spectra(1600, worn=False)
np.savez("normal.npz", x=normal, y=normal)
np.savez("test.npz", normal=spectra(200, worn=False), worn=spectra(200, worn=True))
