"""Forged descriptions are refused with a line, or make graphs of a bounded size: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_FORGERIES, _SEED = 2000, 1


def test_no_forged_network_ends_a_process_or_fills_its_memory() -> None:
    command = (sys.executable, "-m", "tests.forgeries", str(_FORGERIES), str(_SEED))
    environment = os.environ | {"PYTHONPATH": str(_ROOT)}
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > _FORGERIES / 50, "some are networks after all"
