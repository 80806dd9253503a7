"""The results of the zoo as tables: on a terminal, and for docs/ZOO.md."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.zoo.records import Criterion, Measured, Zoo

_HEADINGS = (
    "network", "parameters", "graph at batch", "build s", "write s", "exactness", "litert /s", "keras /s", "ratio",
    "litert MB", "keras MB", "exports", "fp32 ms", "parity",
)  # fmt: skip
_SHOWN = ("network", "graph at batch", "build s", "exactness", "ratio", "litert MB", "parity")
"""What a terminal has room for."""
_PAGE = """# The zoo

Ordinary networks, which nobody tuned for: MLPerf Tiny's four, MobileNetV2 whole and with a frozen base, a SqueezeNet,
1-D CNNs, residual networks, nested models, a CNN whose images are augmented; a small MobileNetV3; LSTM, GRU, TCN and
Transformers over sensors and text; a U-Net, an autoencoder over sequences; a network of two inputs and one of two
outputs.
`python -m benchmarks.zoo --markdown docs/ZOO.md` measures them and writes this page; `benchmarks/results/zoo.json` has
the numbers. {machine}

{table}

- **graph at batch**: the batch sizes for which a training graph was proven: devices without TensorFlow can train.
- **exactness**: the error of the graph's gradients over that of tf_keras' own float32, both against float64: the median
  and the 95th percentile over the tensors whose answer rounding leaves meaningful, at batch 1 to 64.
- **litert /s, keras /s, ratio**: examples per second of the two trainers, each in a process of its own, one thread,
  batch 32, pruned to 80 %; **MB**: those processes' peak memory (10^6 bytes).
- **exports**: the formats whose conversion works, and which run and are verified against Keras.
- **fp32 ms**: the median latency of one inference of the exported model, one thread.
- **parity**: how far the weights of the two trainers are apart after 20 steps, over how far one rounding of the first
  weights takes the keras trainer (or, where that is more than 3 times, either trainer).
{formats}{refusals}{criterion}"""
_CRITERION = """
## What the proof finds

A graph passes if nothing in it is further from float64 than {margin:g} times what rounding moves the answer by. Of
{honest} honest graphs {false_refusals} were refused. Of {mutants} graphs with one mistake ({kinds} kinds: a constant,
an operator, a sign, a shift, a ReLU too many), in small networks that have every kind of layer, the proof missed
{missed_mutants} and a device's self-check {missed_by_self_check}. The largest ratio of an honest graph was
{largest_honest:.3g}, the smallest at which a mutant is found {smallest_mutant:.3g}.
"""


def rich_table(zoo: Zoo) -> Table:
    table = Table(title=f"The zoo on {zoo.machine}", title_justify="left", box=SIMPLE_HEAD)
    for heading in _SHOWN:
        table.add_column(heading, justify="left" if heading == _HEADINGS[0] else "right")
    for row in zoo.networks:
        cells = dict(zip(_HEADINGS, _cells(row), strict=True))
        table.add_row(*(cells[heading] for heading in _SHOWN))
    return table


def markdown(zoo: Zoo) -> str:
    """The page docs/ZOO.md."""
    rows = [_HEADINGS, ("---", *("---:" for _ in _HEADINGS[1:])), *(_cells(row) for row in zoo.networks)]
    refusals = [f"- **{row.name}**: {line}\n" for row in zoo.networks for line in row.refusals]
    formats = [
        f"- **{row.name}**, {export.format}: {export.problem}\n"
        for row in zoo.networks
        for export in row.exports
        if export.problem
    ]
    return _PAGE.format(
        machine=f"The machine is {zoo.machine}.",
        table="\n".join(f"| {' | '.join(cells)} |" for cells in rows),
        formats="\n## Formats that do not work, or gain nothing\n\n" + "".join(formats) if formats else "",
        refusals="\n## What got no graph\n\n" + "".join(refusals) if refusals else "",
        criterion="" if zoo.criterion is None else _criterion(zoo.criterion),
    )


def _criterion(criterion: Criterion) -> str:
    return _CRITERION.format(**{name: getattr(criterion, name) for name in criterion.__struct_fields__})


def _cells(row: Measured) -> tuple[str, ...]:
    ratio = row.litert_samples_s / row.keras_samples_s if row.litert_samples_s and row.keras_samples_s else None
    return (
        row.name,
        f"{row.parameters:,}",
        ", ".join(map(str, row.graph)) or "none",
        f"{row.build_seconds:.1f}",
        f"{row.write_seconds:.2f}",
        f"{row.exactness.median:.2f}, {row.exactness.p95:.2f}" if row.exactness else "",
        _number(row.litert_samples_s, ",.0f"),
        _number(row.keras_samples_s, ",.0f"),
        _number(ratio, ".2f"),
        _number(row.litert_peak_mb, ",.0f"),
        _number(row.keras_peak_mb, ",.0f"),
        ", ".join(export.format for export in row.exports if export.works),
        _number(row.latency_ms, ".2f"),
        _number(row.parity, ".2f"),
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
