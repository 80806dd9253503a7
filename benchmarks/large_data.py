"""Data that are larger than a device's memory: `python -m benchmarks.large_data`

An agent trains one epoch on 2 GB of examples, in a control group that has 128 MB, the pages of its libraries and of its
data included. It is a whole federation on loopback: the model is fetched, evaluated on what is held out, trained, and
the update accepted.
"""

from __future__ import annotations

import shutil
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import click
import msgspec
import numpy as np
from numpy.lib import format as npy

from aggregator.run_store import RunStore
from benchmarks.agent_memory.cgroup import CgroupUnavailableError, evict, small_cgroup
from benchmarks.children import Children, default_broker
from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from benchmarks.unequal_work.task import INPUTS, make_bundle
from fedprune.data import Dataset
from fedprune.data.source import open_source
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array
from fedprune.system.disk import Directory

LIMIT_BYTES = 128 * 10**6
"""Of the agent's control group."""
DATA_BYTES = 2 * 10**9

_NAME = "large-data"
_HOLD_OUT = 0.02
_DEADLINE_S = 36_000
_WRITTEN = 2**10
"""Examples that are written together."""
_NOISE = 0.02
_CHECK_S = 0.5


class LargeData(msgspec.Struct, frozen=True):
    """The agent's round. `limit_mb` is None, and `why_unlimited` not empty, where no control group can be made."""

    data_mb: float
    limit_mb: float | None
    why_unlimited: str
    peak_mb: float
    examples: int
    evaluated: int
    steps: int
    train_seconds: float


@click.command(cls=Script)
@json_option("Write the numbers there.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/large-data"),
    show_default=True,
    help="Where the data are written, 2 GB that stay for the next time, and logs go.",
)
def main(target: Path | None, out: Path) -> None:
    """Train one epoch on 2 GB of images with 128 MB of memory: a perceptron, the litert trainer, one thread.

    The images are Fashion-MNIST's, each as often as it takes, with other noise each time, so that no byte of the file
    can be left out or compressed. Exits with 1 unless the agent does the round within its memory.
    """
    out.mkdir(parents=True, exist_ok=True)
    found = measure(out.resolve(), DATA_BYTES)
    write_json(found, target)
    click.echo(
        f"{found.data_mb:.0f} MB of data, one epoch: {found.steps} steps over {found.examples} examples in "
        f"{found.train_seconds:.0f} s, {found.evaluated} held out; peak {found.peak_mb:.1f} MB"
    )
    held = f"a round within {LIMIT_BYTES / 1e6:.0f} MB, page cache included"
    settle(
        {
            f"peak {found.peak_mb:.1f} MB, at most {LIMIT_BYTES / 1e6:.0f}": found.peak_mb <= LIMIT_BYTES / 1e6,
            held + (f": {found.why_unlimited}" if found.why_unlimited else ""): None if found.why_unlimited else True,
        }
    )


def measure(out: Path, data_bytes: int) -> LargeData:
    """A federation of one agent and one round. Raises `FedpruneError`s, also where the agent is killed."""
    data = _examples(out, data_bytes)
    (out / "task.fedtask").write_bytes(make_bundle(epochs=1, seed=0, is_normalized=False, local=()).blob)
    evict([out])
    with _limited() as (prefix, why_unlimited), Children(out) as children:
        _run(out, data, children, prefix)
    store = RunStore.open(out / "run")
    (update,) = store.book.accepted(0).values()
    store.book.close()
    return LargeData(
        data_mb=data.stat().st_size / 1e6,
        limit_mb=None if why_unlimited else LIMIT_BYTES / 1e6,
        why_unlimited=why_unlimited,
        peak_mb=update.peak_memory_mb,
        examples=update.weight,
        evaluated=update.evaluated_examples,
        steps=update.local_steps,
        train_seconds=update.train_seconds,
    )


@contextmanager
def _limited() -> Iterator[tuple[tuple[str, ...], str]]:
    """The words before the agent's command, and why there is no limit if there is none."""
    with ExitStack() as stack:
        try:
            prefix, why_unlimited = stack.enter_context(small_cgroup(LIMIT_BYTES)), ""
        except CgroupUnavailableError as error:
            prefix, why_unlimited = (), str(error)
        yield prefix, why_unlimited


def _run(out: Path, data: Path, children: Children, prefix: tuple[str, ...]) -> None:
    """Gateway and agent, until the round is merged."""
    for name in ("run", "agent"):
        shutil.rmtree(out / name, ignore_errors=True)
    broker = children.start_broker(default_broker())
    (out / "federation.toml").write_text(_federation_toml(broker))
    gateway = children.start("gateway", "aggregator", str(out / "federation.toml"))
    options = {"--name": "device", "--data": data, "--federation": _NAME, "--trainer": "litert", "--broker": broker}
    words = [str(word) for option in {**options, "--state": out / "agent"}.items() for word in option]
    children.start_command("agent", (*prefix, sys.executable, "-P", "-m", "fedprune.command", "agent", *words))
    while gateway.poll() is None:
        children.check(except_for="gateway")
        time.sleep(_CHECK_S)
    children.wait("gateway")


def _federation_toml(broker: str) -> str:
    return f"""\
name = "{_NAME}"
task = "task.fedtask"
agents_hold_out = {_HOLD_OUT}
state = "run"
threads = 1

[broker]
url = "{broker}"

[rounds]
count = 1
cohort = 1
quorum = 1.0
deadline_s = {_DEADLINE_S}
"""


def _examples(out: Path, data_bytes: int) -> Path:
    """An .npz of so many bytes of images, unless it is there: float32 with noise, `[examples, INPUTS]`."""
    count = data_bytes // (INPUTS * 4)
    path = out / f"images-{count}.npz"
    if not path.exists():
        images = open_source("auto").train
        Directory(out).write_through(path.name, lambda file: _write(file, images, count))
    return path


def _write(file: BinaryIO, images: Dataset, count: int) -> None:
    labels = images.y[np.arange(count) % len(images)]
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open("x.npy", "w", force_zip64=True) as member:
            npy.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (count, INPUTS)})
            for start in range(0, count, _WRITTEN):
                member.write(_noisy(images, start, min(_WRITTEN, count - start)).data)
        with archive.open("y.npy", "w") as member:
            npy.write_array(member, labels)


def _noisy(images: Dataset, start: int, count: int) -> Array:
    """Pictures from that place on, as often as it takes, with noise of their own."""
    pictures = images.x[np.arange(start, start + count) % len(images)].reshape(count, -1)
    noise = Keyed(0, "large-data", start).uniform(count * INPUTS, -_NOISE, _NOISE).reshape(count, INPUTS)
    noise[:, : pictures.shape[1]] += pictures  # digits, which stand in for Fashion-MNIST, are smaller
    return noise


if __name__ == "__main__":
    main()
