"""Descriptions as an enemy would write them: a line each, no crash, no memory past a bound."""

from __future__ import annotations

import re
import subprocess
import sys


def test_two_thousand_forged_descriptions_are_refused_in_a_line_or_make_graphs_that_run() -> None:
    command = [sys.executable, "-m", "benchmarks.forged_descriptions", "--count", "2000"]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
    ran, refused = (int(re.search(rf"{what}: (\d+)", done.stdout)[1]) for what in ("ran", "refused"))
    assert ran > 50
    assert refused > 500
    (peak,) = map(int, re.findall(r"peak (\d+) MB", done.stdout))
    assert peak < 1024
