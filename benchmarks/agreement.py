"""Our benchmark against LiteRT's own: `python -m benchmarks.agreement MODEL.tflite... [--json FILE]`

Measures the same models with `measure` and with `litert-benchmark`, in alternation, and exits with 1 if the medians
of any model differ by more than 25 % and by more than 0.02 ms (litert-benchmark rounds to 0.01 ms). Both run the
interpreter's default, XNNPACK, on the same number of threads.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import msgspec

from benchmarks.command_line import Script, json_option, write_json
from benchmarks.latency.measure import Settings, measure
from benchmarks.latency.results import Measured
from fedprune.errors import ExportError

_TOLERANCE = 0.25
_TOLERANCE_MS = 0.02
_REPETITIONS = 5


class Agreement(msgspec.Struct, frozen=True):
    """Medians over the repetitions of each benchmark's median latency, in ms."""

    path: str
    ours_ms: float
    litert_ms: float

    @property
    def holds(self) -> bool:
        difference = abs(self.ours_ms - self.litert_ms)
        return difference <= _TOLERANCE_MS or difference <= _TOLERANCE * self.litert_ms


def compare(models: list[Path], settings: Settings) -> list[Agreement]:
    """Measure every model by both benchmarks, in alternation, several times.

    Raises:
        ExportError: a model cannot be benchmarked.
    """
    ours: list[list[float]] = []
    theirs: list[list[float]] = []
    for _ in range(_REPETITIONS):
        ours.append(_our_medians(models, settings))
        theirs.append([_litert_median(model, settings) for model in models])
    return [
        Agreement(str(model), statistics.median(mine), statistics.median(other))
        for model, mine, other in zip(models, zip(*ours, strict=True), zip(*theirs, strict=True), strict=True)
    ]


def _our_medians(models: list[Path], settings: Settings) -> list[float]:
    medians = []
    for row in measure(models, settings).models:
        if not isinstance(row, Measured):
            raise ExportError(row.error)
        medians.append(row.latency_ms.p50)
    return medians


def _litert_median(model: Path, settings: Settings) -> float:
    own = {name: getattr(settings, name) for name in ("num_runs", "warmup_runs")}
    with tempfile.NamedTemporaryFile(suffix=".json") as result:
        options = {"model": model, "result_json": result.name, "num_threads": settings.num_threads[0], **own}
        command = [sys.executable, "-m", "ai_edge_litert.tools.benchmark_litert_model"]
        command += [f"--{name}={value}" for name, value in options.items()]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise ExportError(f"{model}: litert-benchmark failed: {run.stderr.strip().splitlines()[-1:]}")
        return float(json.load(result)["latency"]["median_ms"])


@click.command(cls=Script, help=__doc__)
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option("Write the medians there.")
def main(models: tuple[Path, ...], target: Path | None) -> None:
    agreements = compare(list(models), Settings(num_runs=300, warmup_runs=30))
    for row in agreements:
        verdict = "agrees" if row.holds else "DIFFERS"
        click.echo(f"{row.path}: ours {row.ours_ms:.3f} ms, litert-benchmark {row.litert_ms:.3f} ms: {verdict}")
    write_json(agreements, target)
    sys.exit(0 if all(row.holds for row in agreements) else 1)


if __name__ == "__main__":
    main()
