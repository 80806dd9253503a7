"""Runs a demo: data, task, broker, agents, aggregator, export, benchmark, each as a user would call it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Protocol

import msgspec

from aggregator.book import Book, RoundRecord
from aggregator.presets import Preset
from aggregator.settings import Codec
from benchmarks.children import ChildFailedError, Children
from benchmarks.demo import result as results
from benchmarks.demo.settings import HELD_OUT_EXAMPLES, DemoSettings, task_toml
from benchmarks.federation import Federation, codec_of, run_federation
from fedprune.data.partition import parse_partition
from fedprune.data.prepare import SplitSummary, prepare
from fedprune.data.source import open_source
from fedprune.errors import ConfigurationError
from fedprune.system.disk import Directory
from fedprune.system.paths import path_text
from fedprune.task.bundle import load_bundle
from fedprune.task.run_directory import BOOK

_MARKER = "demo.json"
_OWN = (_MARKER, "agents", "data", "export", "logs", "run", "result.json", "picture.png", "benchmark.json")
_OWN_FILES = ("task.toml", "task.fedtask", "federation.toml", "mosquitto.conf")


class Display(Protocol):
    """Whoever shows how a demo goes."""

    def stage(self, title: str) -> None:
        """A new part of the work begins."""
        ...

    def note(self, text: str) -> None: ...

    def round(self, record: RoundRecord) -> None: ...


def run_demo(settings: DemoSettings, display: Display) -> results.DemoResult:
    """Run the whole demo into `settings.out`. Raises `FedpruneError`s, those of the children among them."""
    out = settings.out.resolve()
    _clear(out, settings)
    with Children(out) as children:
        display.stage("Sharing out the data")
        split = _share_out(settings, out)
        if split.note:
            display.note(split.note)
        display.stage("Building the task bundle")
        files = Directory(out)
        files.write("task.toml", task_toml(settings, split).encode())
        children.run("task", "task", "build", str(out / "task.toml"), "--out", str(out / "task.fedtask"))
        display.stage(f"Training with {settings.agents} agents")
        run_federation(_federation(settings, out), children, display.round)
        display.stage("Exporting and verifying")
        children.run("export", "export", str(out / "run"), "--out", str(out / "export"))
        display.stage("Benchmarking")
        benchmark_exports(out, children)
        result = _collect(settings, split, out)
        files.write("result.json", msgspec.json.format(msgspec.json.encode(result), indent=2))
    return result


def _share_out(settings: DemoSettings, out: Path) -> SplitSummary:
    return prepare(
        open_source(settings.data),
        parse_partition(settings.partition),
        agents=settings.agents,
        examples_per_agent=settings.examples_per_agent,
        held_out=HELD_OUT_EXAMPLES,
        seed=settings.seed,
        out=out / "data",
    )


def _federation(settings: DemoSettings, out: Path) -> Federation:
    return Federation(
        name=settings.federation,
        agents=settings.agents,
        rounds=settings.rounds,
        seed=settings.seed,
        codec=Codec(preset=Preset(settings.preset)) if settings.preset else codec_of(settings.codec),
        trainer=settings.trainer,
        broker=settings.broker,
        out=out,
    )


def benchmark_exports(out: Path, children: Children) -> None:
    """Measure the exports. A model that fails has its row in the report; raises only if there is no report."""
    models = [str(path) for path in _exported(out)]
    report = out / "benchmark.json"
    try:
        children.run("benchmark", "benchmark", *models, "--json", str(report))
    except ChildFailedError:
        if not report.exists():
            raise


def _collect(settings: DemoSettings, split: SplitSummary, out: Path) -> results.DemoResult:
    book = Book.open(out / "run" / BOOK)
    records = book.records()
    rounds = [results.round_result(record) for record in records]
    collected = results.DemoResult(
        settings=_as_json(settings),
        source=split.source,
        rounds=rounds,
        model=results.model_result(load_bundle(out / "task.fedtask"), rounds[-1], out / "export"),
        peak_memory_mb=results.peak_memory(book, records),
        exports=results.export_results(out, out / "export", out / "benchmark.json"),
    )
    book.close()
    return collected


def _exported(out: Path) -> list[Path]:
    described = msgspec.json.decode((out / "export" / "exports.json").read_bytes())
    return [out / "export" / entry["path"] for entry in described["exports"]]


def _as_json(settings: DemoSettings) -> dict[str, object]:
    return {name: path_text(value) if name in ("out", "data") else value for name, value in vars(settings).items()}


def _clear(out: Path, settings: DemoSettings) -> None:
    """Clear what an earlier demo left in `out`. Raises `ConfigurationError` if somebody else's files are there."""
    if out.exists() and not out.is_dir():
        raise ConfigurationError(f"{out}: a file is where this directory should be; name another --out")
    if out.exists() and any(out.iterdir()) and not (out / _MARKER).exists():
        raise ConfigurationError(f"{out}: not empty, and not from a demo; name another --out")
    for name in (*_OWN, *_OWN_FILES):
        shutil.rmtree(out / name, ignore_errors=True)
        if (out / name).is_file():
            (out / name).unlink()
    Directory(out).write(_MARKER, json.dumps(_as_json(settings), indent=1).encode())
