"""The command `fedprune demo`."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from aggregator.book import RoundRecord
from aggregator.presets import Preset
from benchmarks.children import default_broker, find_mosquitto
from benchmarks.demo.federation import run_demo
from benchmarks.demo.result import DemoResult, ExportResult, RoundResult
from benchmarks.demo.settings import DemoSettings
from fedprune.codecs import DEFAULT_CODEC, parse_codec
from fedprune.errors import BrokerError, ConfigurationError, ExportError
from fedprune.wire.broker import Broker

_PICTURE = "picture.png"


def _codec(_: click.Context, __: click.Parameter, description: str) -> str:
    try:
        return str(parse_codec(description))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.option("--agents", type=click.IntRange(1, 64), default=4, show_default=True, help="Agents, each a process.")
@click.option("--rounds", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Rounds to train.")
@click.option(
    "--examples-per-agent", type=click.IntRange(1), default=1500, show_default=True, help="Examples each agent has."
)
@click.option(
    "--partition",
    default="dirichlet:0.5",
    show_default=True,
    metavar="iid|dirichlet:ALPHA",
    help="How classes are spread over agents; a small ALPHA is uneven.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of everything random.")
@click.option(
    "--sparsity",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.8,
    show_default=True,
    help="Fraction of the kernels' weights to prune; 0 trains dense.",
)
@click.option(
    "--units",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="Fraction of each layer's filters and units to remove; exported files are without them.",
)
@click.option(
    "--codec",
    default=DEFAULT_CODEC,
    show_default=True,
    metavar="CHAIN",
    callback=_codec,
    help="How updates are made bytes: links joined by |, see docs/CODECS.md.",
)
@click.option(
    "--preset",
    type=click.Choice([preset.value for preset in Preset]),
    help="Some hundred times fewer bytes both ways instead, and a schedule that goes with it.",
)
@click.option(
    "--mask",
    type=click.Choice(["shared", "own"]),
    default="shared",
    show_default=True,
    help="Who chooses what is pruned: the gateway, or each agent.",
)
@click.option(
    "--trainer",
    type=click.Choice(["auto", "keras", "litert"]),
    default="auto",
    show_default=True,
    help="What the agents train with: TensorFlow, or LiteRT in an eighth of the memory.",
)
@click.option(
    "--broker",
    metavar="embedded|mosquitto|URL",
    help="The broker.  [default: mosquitto if it is installed, else embedded]",
)
@click.option(
    "--data",
    metavar="PATH.npz",
    default="auto",
    help="Your own images: arrays x and y.  [default: Fashion-MNIST, or scikit-learn's digits without it]",
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True, help="Where results go."
)
def demo(broker: str | None, **options: Any) -> None:
    """Run a whole federation on this machine: broker, aggregator and agents as processes of their own, on real data.

    It shares out the data, trains and prunes round by round, exports the pruned model to TFLite, measures its
    latency, and leaves a table, OUT/picture.png and OUT/result.json.

    \b
      fedprune demo
      fedprune demo --agents 8 --partition iid --sparsity 0.9 --out runs/sparse
      fedprune demo --preset frugal --rounds 60 --out runs/frugal            # few bytes want more rounds
      fedprune demo --sparsity 0 --codec "mask | fp32" --out runs/dense      # what to compare with
    """
    if options["preset"] and options["codec"] != DEFAULT_CODEC:
        raise click.UsageError("--preset says how updates are made bytes; leave --codec out")
    broker = _choose_broker(broker)
    settings = DemoSettings(broker=broker, federation=_federation(broker), **options)
    console = Console(stderr=True)
    with _RichDisplay(console, settings.rounds) as display:
        result = run_demo(settings, display)
    _draw(result, settings.out / _PICTURE)
    Console().print(_rounds_table(result), _exports_table(result), sep="\n")
    console.print(f"{settings.out / _PICTURE} shows it; {settings.out / 'result.json'} has the numbers.")
    _check_benchmarked(result, settings.out)


def _choose_broker(broker: str | None) -> str:
    if broker is None:
        return default_broker()
    if broker == "mosquitto" and not find_mosquitto():
        raise BrokerError("mosquitto is not installed; install it, or use --broker embedded")
    if broker not in ("embedded", "mosquitto"):
        try:
            Broker(broker)
        except ValueError as error:
            raise ConfigurationError(f"--broker: {error}, or embedded or mosquitto") from error
    return broker


def _federation(broker: str) -> str:
    """A broker that others know may serve another demo already."""
    return f"demo-{secrets.token_hex(2)}" if "://" in broker else "demo"


def _check_benchmarked(result: DemoResult, out: Path) -> None:
    failed = [export.path for export in result.exports if export.p50_ms is None]
    if failed:
        raise ExportError(f"{', '.join(failed)} could not be benchmarked; {out / 'benchmark.json'} says why")


def _draw(result: DemoResult, path: Path) -> None:
    from benchmarks.demo.picture import draw

    draw(result, path)


class _RichDisplay:
    """A line for what goes on, a bar for the rounds."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._console = console
        self._rounds = rounds
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[news]}"),
            console=console,
        )
        self._current: Any = None

    def __enter__(self) -> _RichDisplay:
        self._progress.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self._complete()
        self._progress.stop()

    def stage(self, title: str) -> None:
        self._complete()
        total = self._rounds if title.startswith("Training") else 1
        self._current = self._progress.add_task(title, total=total, news="")

    def note(self, text: str) -> None:
        self._console.print(text, style="yellow")

    def round(self, record: RoundRecord) -> None:
        news = f"accuracy {record.accuracy:.3f}, sparsity {record.sparsity:.2f}"
        self._progress.update(self._current, completed=record.round + 1, news=news)
        if record.left_out:
            self.note(f"round {record.round + 1}: updates were left out, of {', '.join(record.outliers)}")
        if record.suspects:
            self.note(f"round {record.round + 1}: standing apart are {', '.join(record.suspects)}")

    def _complete(self) -> None:
        if self._current is not None:
            self._progress.update(self._current, completed=self._progress.tasks[self._current].total)


def _rounds_table(result: DemoResult) -> Table:
    table = Table(
        title=f"{result.source}: {len(result.rounds)} rounds",
        title_justify="left",
        box=SIMPLE_HEAD,
        caption=_control(result.rounds),
        caption_justify="left",
    )
    for heading in ("round", "agents", "accuracy", "loss", "sparsity", "up kB", "down kB", "seconds", "train s"):
        table.add_column(heading, justify="right")
    for entry in result.rounds:
        table.add_row(
            str(entry.round),
            str(entry.agents),
            f"{entry.accuracy:.3f}",
            "nan" if entry.loss is None else f"{entry.loss:.3f}",
            f"{entry.sparsity:.2f}",
            f"{entry.bytes_up / 1000:.1f}",
            f"{entry.bytes_down / 1000:.1f}",
            f"{entry.seconds:.2f}",
            f"{entry.train_seconds:.2f}",
        )
    return table


def _control(rounds: Sequence[RoundResult]) -> str:
    """What a round takes an agent beside model and update, on average, once all have the task."""
    later = rounds[1:] or rounds
    agents = sum(entry.agents for entry in later)
    messages = sum(entry.messages_up + entry.messages_down for entry in later) / agents
    kinds = [kinds for entry in later for kinds in (entry.bytes_up_by_kind, entry.bytes_down_by_kind)]
    control = sum(each.get("control", 0) for each in kinds) / agents
    return f"a round takes an agent {messages:.1f} messages and {control:.0f} bytes of control"


def _exports_table(result: DemoResult) -> Table:
    memory = result.peak_memory_mb
    table = Table(
        title="Exported models",
        title_justify="left",
        box=SIMPLE_HEAD,
        caption=f"peak memory: aggregator {memory.aggregator:.0f} MB, "
        f"agent idle {memory.agent_idle:.0f} MB, training {memory.agent:.0f} MB",
        caption_justify="left",
    )
    for heading in ("file", "format", "kB", "zstd kB", "accuracy", "p50 ms"):
        table.add_column(heading, justify="left" if heading in ("file", "format") else "right")
    for export in result.exports:
        table.add_row(*_export_cells(export))
    return table


def _export_cells(export: ExportResult) -> tuple[str, ...]:
    return (
        export.path,
        export.format,
        f"{export.bytes / 1000:.1f}",
        f"{export.bytes_compressed / 1000:.1f}",
        "-" if export.accuracy is None else f"{export.accuracy:.3f}",
        "failed" if export.p50_ms is None else f"{export.p50_ms:.3f}",
    )
