"""`python -m benchmarks.codec [--quick] [--json FILE]`

Updates are drawn, and those of a federation that learns. Speeds are of one core, in megabytes of the dense fp32 update
a second of processor time, the best of some repetitions. To encode is to gather the kept values, compress and write
them; to decode ends with the alive values of all tensors. Beside them stands how fast memory of the same size is
copied. Entropies are of each tensor by itself: of positions as independent choices with the tensor's own density, of
values by how often each occurs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from aggregator.presets import chains
from benchmarks.claims import settle
from benchmarks.codec.drawn import DrawnUpdate
from benchmarks.codec.row import DELTAS, UPDATES, Row
from benchmarks.command_line import Script, json_option, write_json
from fedprune.codecs import DEFAULT_CODEC, parse_codec

_CNN = ((3, 3, 1, 16), (16,), (3, 3, 16, 32), (32,), (800, 128), (128,), (128, 10), (10,))
"""CNN-108k."""
_LARGE = ((3072, 4096), (4096,), (4096, 2560), (2560,), (2560, 750), (750,))
"""25 million parameters."""
_PLAIN = (DEFAULT_CODEC, "mask | int8", "mask | fp16", "mask | fp32")
_CHAINS = (
    *_PLAIN,
    "mask | quantise(4)",
    "mask | rotate | quantise(2)",
    "mask | random_mask(0.1) | fp16",
    "mask | low_rank(8) | quantise(8)",
    "mask | feedback(20) | topk(0.05) | ternary | bitmap",
    "mask | feedback(20) | topk(0.05) | ternary | rice",
    "mask | feedback(20) | topk(0.05) | ternary | context",
)
"""The presets' for updates comes to them."""
_RECIPE, _SEED, _ROUNDS = "frugal-90", 11, 60
"""The federation that learns: neither the recipe nor the coders were fitted with this seed."""
_LEAST_MB_S = 800.0
_MOST_SMALL_MS = 50.0
_MOST_OF_ENTROPY = {(UPDATES, "history"): 0.85, (DELTAS, "history"): 0.93}


@click.command(cls=Script)
@click.option("--quick", is_flag=True, help="Drawn updates of the small model alone.")
@json_option("Write the rows there.")
def main(quick: bool, target: Path | None) -> None:
    """Encode and decode drawn updates of 108,618 and of 25 million parameters, 90 % pruned, by many chains; and all
    that ten agents and their gateway send in 60 rounds of `frugal`, on Fashion-MNIST.

    Exits with 1 if a plain chain (known mask, int8 or fp16, every kept value) of the large one is slower than 800 MB/s,
    if a small update takes more than 50 ms to encode and decode, or if positions and signs of what was learned take
    more than 0.85 of their entropy up or 0.93 down.
    """
    rows: list[Row] = []
    for shapes, repetitions in ((_CNN, 15), *(() if quick else ((_LARGE, 5),))):
        update = DrawnUpdate(shapes)
        rows += [update.measure(parse_codec(chain), repetitions) for chain in (*_CHAINS, chains(update.parameters)[0])]
        write_json(rows, target)  # what there is, should this be interrupted
    if not quick:
        rows += _learned()
        write_json(rows, target)
    Console(width=160).print(_table(rows))
    settle(claims(rows))


def _learned() -> list[Row]:
    """Building a task imports TensorFlow, which drawn updates do without."""
    from benchmarks.bytes_to_accuracy.federation import Federation
    from benchmarks.bytes_to_accuracy.problems import USUAL_PROBLEM, arrangement_of
    from benchmarks.bytes_to_accuracy.recipes import RECIPES
    from benchmarks.codec.learned import measure_learned

    recipe = next(each for each in RECIPES if each.name == _RECIPE)
    with tempfile.TemporaryDirectory() as directory:
        arrangement = arrangement_of(USUAL_PROBLEM, None, 1.0)
        return measure_learned(Federation(recipe, arrangement, _SEED, _ROUNDS, Path(directory)))


def claims(rows: list[Row]) -> dict[str, bool | None]:
    found: dict[str, bool | None] = {}
    small = min(row.parameters for row in rows)
    for row in rows:
        what = f"{row.of}, {row.chain}"
        if row.parameters == small:
            said = f"{what}: {row.milliseconds:.1f} ms for {row.parameters:,} parameters, at most {_MOST_SMALL_MS:.0f}"
            found[said] = row.milliseconds <= _MOST_SMALL_MS
        elif row.chain in ("mask | int8", "mask | fp16"):
            slower = min(row.encode_mb_s, row.decode_mb_s)
            found[f"{what}: {slower:,.0f} MB/s at {row.parameters:,} parameters, at least {_LEAST_MB_S:.0f}"] = (
                slower >= _LEAST_MB_S
            )
        if (row.of, row.coder) in _MOST_OF_ENTROPY:
            most = _MOST_OF_ENTROPY[row.of, row.coder]
            found[f"{what}: {row.of_entropy:.3f} of the entropy of positions and signs, at most {most}"] = (
                row.of_entropy <= most
            )
    return found


_HEADINGS = ("of", "chain")


def _table(rows: list[Row]) -> Table:
    table = Table(title="Codecs, MB/s of dense fp32", title_justify="left", box=SIMPLE_HEAD)
    for heading in (*_HEADINGS, "parameters", "encode", "decode", "memcpy", "bytes", "positions", "values", "ms"):
        table.add_column(heading, justify="left" if heading in _HEADINGS else "right", no_wrap=heading != "chain")
    for row in rows:
        table.add_row(
            row.of,
            row.chain,
            f"{row.parameters:,}",
            f"{row.encode_mb_s:,.0f}",
            f"{row.decode_mb_s:,.0f}",
            f"{row.memcpy_mb_s:,.0f}",
            f"{row.bytes:,}",
            f"{row.position_bytes:,} ({row.position_entropy_bytes:,.0f})",
            f"{row.value_bytes:,} ({row.value_entropy_bytes:,.0f})",
            f"{row.milliseconds:.1f}",
        )
    return table


if __name__ == "__main__":
    main()
