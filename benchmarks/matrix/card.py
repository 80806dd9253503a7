"""The model card of an export: what the model is, how it was made, how good it is, and where it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import msgspec

from aggregator.book import Spread
from benchmarks.matrix.candidates import Candidate, Model
from export.report import RunsOn


class FileOnCard(msgspec.Struct, frozen=True):
    model: Model
    path: str
    format: str
    bytes: int
    bytes_zstd: int
    sha256: str
    quality: float | None
    p50_ms: float | None
    runs_on: tuple[RunsOn, ...]


class Card(msgspec.Struct, frozen=True):
    """A model card. `rounds` were trained by `agents` agents (None where the run has no book).

    `parameters` are the task's network's, `parameters_by_model` those of what was exported; `removed_units` are the
    numbers of units that the slimmed one has lost, by layer.

    `sparsity_by_layer` is the fraction of zeros in each prunable tensor of the checkpoint. `quality` is that of the
    Keras model by `metric` on `examples` examples; `spreads` are the figures' over agents in the last round, of its
    model from before, by name: empty where agents do not evaluate. `recommended` is a file's path.
    """

    written: datetime
    fedprune: str
    task: str
    run: str
    version: int
    rounds: int
    agents: int | None
    parameters: int
    parameters_by_model: dict[Model, int]
    removed_units: dict[str, int]
    sparsity: float
    target_sparsity: float
    sparsity_by_layer: dict[str, float]
    weights_sha256: str
    metric: str
    quality: float | None
    examples: int
    calibration_examples: int
    spreads: dict[str, Spread]
    machine: str
    recommended: str | None
    reason: str | None
    files: tuple[FileOnCard, ...]
    warnings: tuple[str, ...]


def files_on_card(candidates: Sequence[Candidate]) -> tuple[FileOnCard, ...]:
    return tuple(
        FileOnCard(**{name: getattr(each, name) for name in FileOnCard.__struct_fields__}) for each in candidates
    )


def to_markdown(card: Card) -> str:
    """The card as a person reads it."""
    agents = "" if card.agents is None else f" by {card.agents} agents"
    return "\n".join(
        [
            f"# {_cell(card.task)}, version {card.version}",
            "",
            f"Trained by federated learning in {card.rounds} rounds{agents} (run {_cell(card.run)}), and pruned "
            f"meanwhile. Exported by fedprune {card.fedprune} on {card.written:%Y-%m-%d}.",
            "",
            *_quality(card),
            "",
            "## Files",
            "",
            f"Latencies are of one example on {_cell(card.machine)}.",
            "",
            f"| file | kB | kB zstd | {card.metric} | p50 ms | runs on | SHA-256 |",
            "|---|---|---|---|---|---|---|",
            *(_file(each) for each in card.files),
            "",
            *([f"**Recommended: {card.recommended}.** {card.reason}.", ""] if card.recommended else []),
            "## Sparsity",
            "",
            f"{card.sparsity:.1%} of the prunable weights are zero (target {card.target_sparsity:.1%}), of "
            f"{card.parameters:,} parameters. Checkpoint's weights: `{card.weights_sha256}`.",
            *_models(card),
            "",
            "| layer | zeros |",
            "|---|---|",
            *(f"| {_cell(name)} | {zeros:.1%} |" for name, zeros in card.sparsity_by_layer.items()),
            *(["", "## Warnings", "", *(f"- {line}" for line in card.warnings)] if card.warnings else []),
            "",
        ]
    )


def _quality(card: Card) -> Iterator[str]:
    calibrated = f" int8 was calibrated on {card.calibration_examples} others."
    yield f"{card.metric}: {_number(card.quality)}, on {card.examples} examples that it was not trained on.{calibrated}"
    for name, spread in card.spreads.items():
        low, median, high = spread.quartiles
        yield ""
        yield (
            f"{name} over {spread.agents} agents, in their last evaluation: worst {_number(spread.worst)}, quartiles "
            f"{_number(low)}, {_number(median)} and {_number(high)}, best {_number(spread.best)}."
        )


def _models(card: Card) -> Iterator[str]:
    if card.removed_units:
        listed = ", ".join(f"{count} of {_cell(layer)}" for layer, count in card.removed_units.items())
        sizes = ", ".join(f"{count:,} parameters {model}" for model, count in card.parameters_by_model.items())
        yield ""
        yield f"Units that no output depends on: {listed}. Exported with {sizes}."


def _file(each: FileOnCard) -> str:
    runtimes = ", ".join(f"{tried.runtime} {tried.version}" for tried in each.runs_on if tried.ok) or "nothing here"
    cells = (
        each.path,
        f"{each.bytes / 1000:,.1f}",
        f"{each.bytes_zstd / 1000:,.1f}",
        _number(each.quality),
        _number(each.p50_ms),
        runtimes,
        f"`{each.sha256[:16]}…`",
    )
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _cell(text: str) -> str:
    """Text that somebody else chose, as it does no harm in a Markdown table."""
    return "".join(f"\\{sign}" if sign in r"\|`*_<>[]#" else sign for sign in text if sign.isprintable())
