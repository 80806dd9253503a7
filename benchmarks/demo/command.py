"""The command `fedprune demo`."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from aggregator.presets import Preset
from benchmarks.children import default_broker, find_mosquitto
from benchmarks.demo.display import open_display
from benchmarks.demo.federation import run_demo
from benchmarks.demo.result import DemoResult, ExportResult, RoundResult
from benchmarks.demo.settings import DemoSettings
from edge_agent.trainers.choice import preferred_trainer
from fedprune.codecs import DEFAULT_CODEC, parse_codec
from fedprune.errors import BrokerError, ConfigurationError, ExportError
from fedprune.system.paths import path_text
from fedprune.system.table import table_lines
from fedprune.wire.broker import Broker

_PICTURE = "picture.png"
_TRAINERS = {"keras": " with TensorFlow; --trainer litert trains as devices do", "litert": " with LiteRT"}


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
    with open_display(settings.rounds) as display:
        result = run_demo(settings, display)
    _draw(result, settings.out / _PICTURE)
    click.echo("\n".join([*_rounds_lines(result), *_exports_lines(result)]))
    picture, numbers = settings.out / _PICTURE, settings.out / "result.json"
    click.echo(path_text(f"{picture} shows it; {numbers} has the numbers."), err=True)
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


def _rounds_lines(result: DemoResult) -> list[str]:
    headings = ("round", "agents", "accuracy", "loss", "sparsity", "up kB", "down kB", "seconds", "train s")
    rows = [
        (
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
        for entry in result.rounds
    ]
    title = f"{path_text(result.source)}: {len(result.rounds)} rounds"
    return ["", title, "", *table_lines(headings, rows, left=()), _control(result.rounds)]


def _control(rounds: Sequence[RoundResult]) -> str:
    """What a round takes an agent beside model and update, on average, once all have the task."""
    later = rounds[1:] or rounds
    agents = sum(entry.agents for entry in later)
    messages = sum(entry.messages_up + entry.messages_down for entry in later) / agents
    kinds = [kinds for entry in later for kinds in (entry.bytes_up_by_kind, entry.bytes_down_by_kind)]
    control = sum(each.get("control", 0) for each in kinds) / agents
    return f"a round takes an agent {messages:.1f} messages and {control:.0f} bytes of control"


def _exports_lines(result: DemoResult) -> list[str]:
    headings = ("file", "format", "kB", "zstd kB", "accuracy", "p50 ms")
    memory = result.peak_memory_mb
    return [
        "",
        "Exported models",
        "",
        *table_lines(headings, [_export_cells(export) for export in result.exports], left=(0, 1)),
        f"peak memory: aggregator {memory.aggregator:.0f} MB, agent idle {memory.agent_idle:.0f} MB, "
        f"training {memory.agent:.0f} MB{_TRAINERS[preferred_trainer(result.settings['trainer'])]}",
        "",
    ]


def _export_cells(export: ExportResult) -> tuple[str, ...]:
    return (
        export.path,
        export.format,
        f"{export.bytes / 1000:.1f}",
        f"{export.bytes_compressed / 1000:.1f}",
        "-" if export.accuracy is None else f"{export.accuracy:.3f}",
        "failed" if export.p50_ms is None else f"{export.p50_ms:.3f}",
    )
