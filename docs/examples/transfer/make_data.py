"""Draws pictures of four cloths for the workstation, and of two others, of which there are few, for the devices."""

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32

random = np.random.default_rng(1)
down, across = np.mgrid[:SIDE, :SIDE]


def pattern(cloth: str) -> np.ndarray:
    """Bool [SIDE, SIDE]: True where the thread is bright."""
    width = random.uniform(3, 5)
    y, x = (axis + random.uniform(0, 2 * width) for axis in (down, across))
    columns, rows = x % (2 * width) < width, y % (2 * width) < width
    return {
        "columns": columns,
        "rows": rows,
        "checks": columns ^ rows,
        "dots": (x % (2 * width) - width) ** 2 + (y % (2 * width) - width) ** 2 < (width / 2) ** 2,
        "diagonals": (x + y) % (2 * width) < width,
        "grids": columns | rows,
    }[cloth]


for place, cloths, count in (("many", ("columns", "rows", "checks", "dots"), 150), ("few", ("diagonals", "grids"), 60)):
    for cloth in cloths:
        folder = Path(place, cloth)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            dark, bright = random.integers(0, 100), random.integers(150, 256)
            pixels = np.where(pattern(cloth), bright, dark) + random.normal(0, 6, (SIDE, SIDE))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
