"""The codecs of updates, their speed and their bytes: `python -m benchmarks.codec [--quick] [--json FILE]`

Updates are drawn: normal values under a mask at random places, so nothing is clustered that would be cheaper. Speeds
are of one core, in megabytes of the dense fp32 update a second of processor time, the best of some repetitions. To
encode is to gather the kept values, compress and write them; to decode ends with whole tensors. Beside them stands how
fast memory of the same size is copied. Entropies are of each tensor by itself: of positions as independent choices with
the tensor's own density, of values by how often each occurs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from fedprune.codecs import DEFAULT_CODEC, Codec, Compressed, Key, decode_update, encode_update, parse_codec
from fedprune.model.tensors import Array, Mask, TensorClass, TensorSpec, TensorTable
from fedprune.pruning.masks import take_kept

_KEY = Key(1, 0, "agent-0")
_CNN = ((3, 3, 1, 16), (16,), (3, 3, 16, 32), (32,), (800, 128), (128,), (128, 10), (10,))
"""CNN-108k."""
_LARGE = ((3072, 4096), (4096,), (4096, 2560), (2560,), (2560, 750), (750,))
"""25 million parameters."""
_SPARSITY = 0.9
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
_LEAST_MB_S = 800.0
_MOST_SMALL_MS = 50.0


class Row(msgspec.Struct, frozen=True):
    """A chain on an update of so many parameters. Speeds are MB of dense fp32 a second."""

    chain: str
    parameters: int
    sparsity: float
    encode_mb_s: float
    decode_mb_s: float
    memcpy_mb_s: float
    bytes: int
    position_bytes: int
    position_entropy_bytes: float
    value_bytes: int
    value_entropy_bytes: float


@click.command(cls=Script)
@click.option("--quick", is_flag=True, help="The small model alone.")
@json_option("Write the rows there.")
def main(quick: bool, target: Path | None) -> None:
    """Encode and decode drawn updates of 108,618 and of 25 million parameters, 90 % pruned, by many chains.

    Exits with 1 if a plain chain (known mask, int8 or fp16, every kept value) of the large one is slower than 800 MB/s,
    or if a small update takes more than 50 ms to encode and decode.
    """
    rows: list[Row] = []
    for shapes, repetitions in ((_CNN, 15), *(() if quick else ((_LARGE, 5),))):
        update = _Drawn(shapes)
        rows += [update.measure(parse_codec(chain), repetitions) for chain in _CHAINS]
        write_json(rows, target)  # what there is, should this be interrupted
    Console(width=140).print(_table(rows))
    settle(claims(rows))


def claims(rows: list[Row]) -> dict[str, bool | None]:
    found: dict[str, bool | None] = {}
    small = min(row.parameters for row in rows)
    for row in rows:
        if row.parameters == small:
            taken = 4e-3 * row.parameters * (1 / row.encode_mb_s + 1 / row.decode_mb_s)
            found[f"{row.chain}: {taken:.1f} ms for {row.parameters:,} parameters, at most {_MOST_SMALL_MS:.0f}"] = (
                taken <= _MOST_SMALL_MS
            )
        elif row.chain in ("mask | int8", "mask | fp16"):
            slower = min(row.encode_mb_s, row.decode_mb_s)
            found[f"{row.chain}: {slower:,.0f} MB/s at {row.parameters:,} parameters, at least {_LEAST_MB_S:.0f}"] = (
                slower >= _LEAST_MB_S
            )
    return found


class _Drawn:
    """An update whose tensors have `shapes`; those of two axes or more are pruned."""

    def __init__(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        chance = np.random.default_rng(1)
        kinds = [TensorClass.PRUNABLE if len(shape) > 1 else TensorClass.DENSE for shape in shapes]
        self._table = TensorTable(
            tuple(
                TensorSpec(f"tensor-{number}", shape, "float32", kind, f"layer-{number // 2}")
                for number, (shape, kind) in enumerate(zip(shapes, kinds, strict=True))
            )
        )
        self._delta: dict[str, Array] = {}
        self._mask: dict[str, NDArray[np.bool_]] = {}
        for spec in self._table:
            self._delta[spec.name] = chance.standard_normal(spec.shape, np.float32)
            if spec.kind is TensorClass.PRUNABLE:
                self._mask[spec.name] = chance.random(spec.shape, np.float32) >= _SPARSITY
                self._delta[spec.name] *= self._mask[spec.name]

    def measure(self, codec: Codec, repetitions: int) -> Row:
        parameters = self._table.parameters
        source, copy = np.ones(parameters, np.float32), np.zeros(parameters, np.float32)
        blob, sent = self._encode(codec)
        times: dict[str, list[float]] = {"encode": [], "decode": [], "copy": []}
        for _ in range(repetitions):
            times["encode"].append(_seconds(lambda: self._encode(codec)))
            times["decode"].append(_seconds(lambda: decode_update(blob, self._table, self._mask, codec, _KEY)))
            times["copy"].append(_seconds(lambda: np.copyto(copy, source)))
        speeds = {name: round(4e-6 * parameters / max(min(taken), 1e-9), 1) for name, taken in times.items()}
        masks = [self._mask.get(spec.name, np.ones(spec.shape, np.bool_)) for spec in self._table]
        positions, position_entropy = b"", 0.0
        if codec.positions is not None:
            unmoved = [np.zeros_like(mask) for mask in masks]
            positions = codec.positions(masks, unmoved).encode(np.concatenate(list(sent.support.values())))
            position_entropy = sum(_entropy(places) for places in sent.support.values())
        return Row(
            chain=str(codec),
            parameters=parameters,
            sparsity=_SPARSITY,
            encode_mb_s=speeds["encode"],
            decode_mb_s=speeds["decode"],
            memcpy_mb_s=speeds["copy"],
            bytes=len(blob),
            position_bytes=len(positions),
            position_entropy_bytes=round(position_entropy, 1),
            value_bytes=len(codec.values.encode(list(sent.tensors.values()))),
            value_entropy_bytes=round(sum(_entropy(vector) for vector in sent.tensors.values()), 1),
        )

    def _encode(self, codec: Codec) -> tuple[bytes, Compressed]:
        alive = {name: _alive(array, self._mask, name) for name, array in self._delta.items()}
        sent = codec.compress(alive, codec.init(self._table), _KEY)
        return encode_update(sent, {}, self._mask, self._table, codec, mask_is_known=True), sent


def _alive(array: Array, mask: Mask, name: str) -> Array:
    return take_kept(array, mask[name]) if name in mask else array.reshape(-1)


def _seconds(work: Callable[[], object]) -> float:
    """Of processor time."""
    began = time.process_time()
    work()
    return time.process_time() - began


def _entropy(values: NDArray[Any]) -> float:
    """Bytes of independent values that occur as often as these."""
    _, counts = np.unique(values, return_counts=True)
    return float(-(counts * np.log2(counts / max(1, values.size))).sum()) / 8


def _table(rows: list[Row]) -> Table:
    table = Table(title="Codecs, MB/s of dense fp32", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("chain", "parameters", "encode", "decode", "memcpy", "bytes", "positions", "values"):
        table.add_column(heading, justify="left" if heading == "chain" else "right", no_wrap=heading != "chain")
    for row in rows:
        table.add_row(
            row.chain,
            f"{row.parameters:,}",
            f"{row.encode_mb_s:,.0f}",
            f"{row.decode_mb_s:,.0f}",
            f"{row.memcpy_mb_s:,.0f}",
            f"{row.bytes:,}",
            f"{row.position_bytes:,} ({row.position_entropy_bytes:,.0f})",
            f"{row.value_bytes:,} ({row.value_entropy_bytes:,.0f})",
        )
    return table


if __name__ == "__main__":
    main()
