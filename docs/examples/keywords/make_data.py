"""Makes recordings of 1 s at 16 kHz for three "words": a tone that rises, one that falls, and one that stays."""

import wave
from pathlib import Path

import numpy as np

RECORDINGS, RATE = 80, 16_000  # of each word, and samples a second

random = np.random.default_rng(1)
time = np.arange(RATE) / RATE
for word, change in (("rise", 2.5), ("fall", 0.4), ("stay", 1.0)):
    folder = Path("words", word)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(RECORDINGS):
        start = random.uniform(400, 900)
        hertz = start * change**time
        tone = np.sin(2 * np.pi * np.cumsum(hertz) / RATE) * np.hanning(RATE)
        sound = 0.4 * random.uniform(0.5, 1) * tone + random.normal(0, 0.02, RATE)
        with wave.open(str(folder / f"{number}.wav"), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes((sound * 32_767).astype("<i2").tobytes())
