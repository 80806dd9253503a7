"""Draws pictures of three cloths, each with colours, a scale and a place of its own, into a folder for each cloth."""

from pathlib import Path

import numpy as np
from PIL import Image

PICTURES = 150  # of each cloth
SIDE = 40

random = np.random.default_rng(1)
down, across = np.mgrid[:SIDE, :SIDE]


def pattern(cloth: str) -> np.ndarray:
    """Bool [SIDE, SIDE]: True where the thread has its second colour."""
    width = random.uniform(4, 6)
    y, x = (axis + random.uniform(0, 2 * width) for axis in (down, across))
    if cloth == "stripes":
        return x % (2 * width) < width
    if cloth == "checks":
        return (x % (2 * width) < width) ^ (y % (2 * width) < width)
    return (x % (2 * width) - width) ** 2 + (y % (2 * width) - width) ** 2 < (width / 2) ** 2


for cloth in ("stripes", "checks", "dots"):
    folder = Path("cloths", cloth)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(PICTURES):
        first, second = random.integers(0, 110, 3), random.integers(140, 256, 3)
        pixels = np.where(pattern(cloth)[..., None], second, first) + random.normal(0, 6, (SIDE, SIDE, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
