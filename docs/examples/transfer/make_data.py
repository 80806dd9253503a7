"""Draws pictures of four digits for the workstation, and of two letters, of which there are few, for the devices."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

random = np.random.default_rng(1)
for place, signs, count in (("digits", "1478", 150), ("letters", "XO", 40)):
    for sign in signs:
        folder = Path(place, sign)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture = Image.new("L", (32, 32), int(random.integers(0, 80)))
            pen = ImageDraw.Draw(picture)
            pen.text(random.integers(2, 12, 2).tolist(), sign, fill=255, font_size=int(random.integers(14, 22)))
            picture.save(folder / f"{number}.png")
