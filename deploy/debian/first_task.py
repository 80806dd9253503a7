"""The first try's task and data, so that it takes no TensorFlow: `python -m deploy.debian.first_task DIRECTORY`.

The data are scikit-learn's scans of digits (UCI, CC BY 4.0). A device that has nothing of its own learns from them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

_TASK = Path(__file__).with_name("digits.toml")

_MARGIN = 2
"""The built-in network takes no pictures as small as these."""


def main(directory: Path) -> None:
    """Write ``agent/digits.npz`` and ``gateway/digits.fedtask``."""
    for part in ("agent", "gateway"):
        (directory / part).mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    pictures = np.round(digits.images[..., np.newaxis] * (255 / 16)).astype(np.uint8)
    pictures = np.pad(pictures, ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0)))
    np.savez_compressed(directory / "agent" / "digits.npz", x=pictures, y=digits.target.astype(np.int64))
    task = directory / "gateway" / "digits.fedtask"
    subprocess.run([sys.executable, "-m", "fedprune.command", "task", "build", _TASK, "--out", task], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
