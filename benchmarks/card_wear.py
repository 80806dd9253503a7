"""`python -m benchmarks.card_wear`: what a round writes to the disks of devices and gateway, which wears SD cards."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from statistics import median

import click
import msgspec

from aggregator.book import RoundRecord
from aggregator.presets import Preset
from aggregator.settings import Codec
from benchmarks.children import Children, default_broker
from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from benchmarks.federation import Federation, run_federation
from benchmarks.pruned_cnn import build_pruned_cnn
from fedprune.system.output import say
from fedprune.task.bundle import load_bundle

MOST_OF_UPDATE, MOST_OF_MODEL = 3.0, 2.0
"""Bytes that a round may write: on a device, of its int8 update's; on the gateway, of the float32 model's."""

MOST_ON_DEVICE = 0.4
"""Of the float32 model's bytes, that a round with a preset may write on a device: its model, which the next delta leads
on from, and its residual, two bytes for each kept weight."""

_AGENTS, _EXAMPLES, _HELD_OUT = 2, 200, 1000
_WARM = 2
"""Rounds at the beginning that are not counted: devices write their task, and their training graph."""

_WROTE = re.compile(r"round \d+ wrote (\d+) kB to the disk")


class Wear(msgspec.Struct, frozen=True):
    """Bytes of a round, the median of those that count: of an update, of the float32 model, and written by a device and
    by the gateway, as the kernel counts them: whole pages, and directories."""

    codec: str
    update: int
    model: int
    device: int
    gateway: int


@click.command(cls=Script)
@click.option("--rounds", default=8, show_default=True, help="Of which the first two are not counted.")
@click.option("--codecs", default="int8,frugal", show_default=True, metavar="NAME,…", help="The default one, presets.")
@click.option("--directory", type=click.Path(file_okay=False, path_type=Path), help="On the disk that is written to.")
@json_option("Write the figures there.")
def main(rounds: int, codecs: str, directory: Path | None, target: Path | None) -> None:
    """Run a federation of two agents with CNN-108k, 80 % pruned, and count what a round writes.

    Exits with 1 if with int8 updates a device writes more than three times its update's bytes, or with a preset more
    than 0.4 times the model's, or the gateway more than twice the model's.
    """
    found: list[Wear] = []
    for codec in codecs.split(","):
        with tempfile.TemporaryDirectory(dir=directory) as folder, Children(Path(folder)) as children:
            wear = _measure(codec, rounds, Path(folder), children)
        found.append(wear)
        say(
            f"{codec}: an update has {wear.update / 1000:.1f} kB, the model {wear.model / 1000:.0f}; a round writes "
            f"{wear.device / 1000:.1f} kB on a device, {wear.gateway / 1000:.0f} on the gateway"
        )
        write_json(found, target)
    settle(_claims(found))


def _claims(found: list[Wear]) -> dict[str, bool | None]:
    claims: dict[str, bool | None] = {}
    for wear in found:
        if wear.codec == "int8":
            times = wear.device / wear.update
            claims[f"a device writes {times:.2f} times its update, at most {MOST_OF_UPDATE:g}"] = (
                times <= MOST_OF_UPDATE
            )
        else:
            times = wear.device / wear.model
            what = f"{wear.codec}: a device writes {times:.2f} times the model, at most {MOST_ON_DEVICE:g}"
            claims[what] = times <= MOST_ON_DEVICE
        times = wear.gateway / wear.model
        what = f"{wear.codec}: the gateway writes {times:.1f} times the model, at most {MOST_OF_MODEL:g}"
        claims[what] = times <= MOST_OF_MODEL
    return claims


def _measure(codec: str, rounds: int, out: Path, children: Children) -> Wear:
    build_pruned_cnn(out, children, agents=_AGENTS, examples=_EXAMPLES, held_out=_HELD_OUT)
    records: list[RoundRecord] = []
    federation = Federation(
        name="wear",
        agents=_AGENTS,
        rounds=rounds,
        seed=1,
        codec=Codec() if codec == "int8" else Codec(preset=Preset(codec)),
        trainer="litert",
        broker=default_broker(),
        out=out,
    )
    run_federation(federation, children, records.append)
    written = [
        int(kilobytes) * 1000
        for agent in range(_AGENTS)
        for kilobytes in _WROTE.findall(children.log(f"agent-{agent}").read_text())[_WARM:]
    ]
    counted = records[_WARM:]
    return Wear(
        codec,
        round(median(record.bytes_up_by_kind["update"] / record.agents for record in counted)),
        4 * load_bundle(out / "task.fedtask").task.table.parameters,
        round(median(written)),
        round(median(record.bytes_written or 0 for record in counted)),
    )


if __name__ == "__main__":
    main()
