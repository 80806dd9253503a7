"""`fedprune data`: share a data set out over agents."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from fedprune.data.dataset import Source
from fedprune.data.partition import parse_partition
from fedprune.data.prepare import Part, SplitSummary, prepare
from fedprune.data.source import open_source
from fedprune.data.task_toml import load_description
from fedprune.errors import DataError
from fedprune.system.commands import Commands
from fedprune.system.table import table_lines

_MAX_ROWS = 24
_MAX_COLUMNS = 10


@click.group(cls=Commands)
def data() -> None:
    """Prepare the examples that agents learn from."""


@data.command()
@click.option(
    "--source",
    default="auto",
    show_default=True,
    metavar="auto|fashion-mnist|digits|PATH",
    help="auto is Fashion-MNIST, or scikit-learn's digits where that cannot be had. A path's .npz holds "
    "x [examples, ...], uint8 pixels, floats or token ids, and y [examples], class numbers from 0, or else floats to "
    "be shared out with iid; or x_NAME and y_NAME for each of several, to be shared out with iid; and perhaps a weight "
    "of each example.",
)
@click.option(
    "--task",
    "task_toml",
    type=click.Path(path_type=Path),
    metavar="task.toml",
    help="Its [data] table says how PATH is read: tables, series, images, recordings, text.",
)
@click.option(
    "--partition",
    "partition_text",
    default="dirichlet:0.5",
    show_default=True,
    metavar="iid|dirichlet:ALPHA|group",
    help="iid: every agent has the same mixture of classes. dirichlet: the smaller ALPHA, the more one-sided. group: "
    "of series, each agent has all windows of its groups.",
)
@click.option(
    "--agents", default=4, show_default=True, type=click.IntRange(1, 100_000), metavar="N", help="How many shares."
)
@click.option(
    "--examples-per-agent", default=1500, show_default=True, type=click.IntRange(1), metavar="E", help="Size of each."
)
@click.option(
    "--held-out",
    default=10_000,
    show_default=True,
    type=click.IntRange(1),
    metavar="H",
    help="At most so many examples to evaluate on: of the test split, or at most a fifth of an .npz.",
)
@click.option("--seed", default=1, show_default=True, type=int, metavar="S", help="The same seed makes the same files.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The directory to write the files to.",
)
@click.option("--json", "as_json", is_flag=True, help="Print split.json instead of a table.")
def split(
    source: str,
    task_toml: Path | None,
    partition_text: str,
    agents: int,
    examples_per_agent: int,
    held_out: int,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Share a data set out over agents, one file each.

    Writes DIR/agent-0.npz, DIR/agent-1.npz, …, DIR/held-out.npz for the aggregator to evaluate on, and
    DIR/split.json, which says what is in them.

    \b
    Example: two agents, 600 examples each, every one with classes that dominate
      fedprune data split --agents 2 --examples-per-agent 600 --partition dirichlet:0.5 --out shares
    """
    how = parse_partition(partition_text)
    summary = prepare(
        _opened(source, task_toml),
        how,
        agents=agents,
        examples_per_agent=examples_per_agent,
        held_out=held_out,
        seed=seed,
        out=out,
    )
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(summary)))
    else:
        _show(summary, out)


def _opened(source: str, task_toml: Path | None) -> Source:
    """Raises `DataError`; of files that are no arrays, with what to do."""
    if task_toml is not None:
        return open_source(source, load_description(task_toml))
    try:
        return open_source(source)
    except DataError as error:
        if not Path(source).exists() or Path(source).suffix == ".npz":
            raise
        raise DataError(f"{error}; or name with --task the task.toml that says how such data are read") from error


def _show(summary: SplitSummary, out: Path) -> None:
    if summary.note:
        click.secho(f"Note: {summary.note}", fg="yellow")
    click.echo(f"{summary.source}, {summary.partition}, seed {summary.seed}\n")
    click.echo("\n".join(_table(summary)))
    if len(summary.agents) > _MAX_ROWS:
        click.echo(f"\nthe first {_MAX_ROWS} of {len(summary.agents)} agents; split.json has them all")
    click.echo(f"\n{len(summary.agents) + 1} files and split.json are in {out}")


def _table(summary: SplitSummary) -> list[str]:
    """Examples by class; where there are many classes the largest one only, where many agents the first ones only."""
    few_classes = summary.classes <= _MAX_COLUMNS
    classes = map(str, range(summary.classes)) if few_classes else ("classes", "largest class")
    rows = [
        [part.file, str(part.examples), *(_counts(part, summary.classes) if few_classes else _spread(part))]
        for part in (*summary.agents[:_MAX_ROWS], summary.held_out)
    ]
    return table_lines(["examples of", "all", *classes], rows)


def _counts(part: Part, classes: int) -> list[str]:
    return [str(part.per_class.get(label, "·")) for label in range(classes)]


def _spread(part: Part) -> list[str]:
    label, count = max(part.per_class.items(), key=lambda item: item[1])
    return [str(len(part.per_class)), f"{label} ({count / part.examples:.0%})"]
