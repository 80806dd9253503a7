"""`fedprune task`: what a federation learns, built once on a workstation. TensorFlow is loaded when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click
import msgspec

from export import show as display
from export.checking.devices import DEVICES, DeviceClass
from export.settings import TaskSettings
from fedprune.codecs import DEFAULT_CODEC, parse_codec
from fedprune.config import load_toml
from fedprune.errors import ConfigurationError
from fedprune.system.commands import Commands
from fedprune.system.disk import Directory
from fedprune.system.output import say, tell_watcher
from fedprune.task.bundle import load_bundle

_BUILDING = "Building the task: what devices will run is compared with TensorFlow, which has to start"


@click.group(cls=Commands)
def task() -> None:
    """Build, check or show a task bundle: what a federation learns."""


@task.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.fedtask",
    help="Where to write the bundle.",
)
def build(config: Path, out: Path) -> None:
    """Make the task bundle that CONFIG (a task.toml) describes. Needs TensorFlow; what uses the bundle does not.

    \b
      name = "fashion"
      [model]
      builtin = "cnn-108k"           # or file = "model.keras", saved by tf_keras
      input_shape = [28, 28, 1]
      outputs = 10
      seed = 1                       # initial weights; initial = "file" takes the file's
      [training]
      steps_per_round = 47
      batch_size = 32
      optimizer = {name = "sgd", learning_rate = 0.05, momentum = 0.9}
      loss = "sparse_categorical_crossentropy"  # or one-hot, binary, regression: docs/SETTINGS.md
      [pruning]
      mask = "shared"                # or "own": each agent's, with allocation = "uniform"
      allocation = "lamp"            # or "global", "uniform"
      [pruning.schedule]             # or begin_step, end_step and frequency
      kind = "polynomial"
      initial_sparsity = 0.0
      target_sparsity = 0.8
      begin_round = 2
      end_round = 10
    """
    settings = load_toml(config, TaskSettings)
    tell_watcher(_BUILDING)

    from export.build import build_task  # imports TensorFlow: after what is cheap to refuse

    blob = build_task(settings, config.parent)
    Directory(out.parent).write(out.name, blob)
    say(f"{out}: task {settings.name!r}, {len(blob)} bytes")


@task.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="PATH", help="A device's examples, to see whether they fit."
)
@click.option(
    "--device",
    "device_names",
    multiple=True,
    metavar="NAME",
    help="A class of devices to look at, as 'Pi 4'; may be given several times.  [default: all that are known]",
)
@click.option(
    "--codec",
    default=DEFAULT_CODEC,
    show_default=True,
    metavar="CHAIN",
    help="How updates are made bytes: docs/CODECS.md.",
)
@click.option("--quick", is_flag=True, help="Try no exports, which take most of the time.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def check(
    config: Path, data: Path | None, device_names: tuple[str, ...], codec: str, quick: bool, as_json: bool
) -> int:
    """Tell what of CONFIG (a task.toml, or a .fedtask that was built) would fail or be slow on a device.

    It builds the task, reads examples, tries each export, measures a training step, and estimates what it would take on
    classes of devices. The exit code is 1 if something would fail: on a device, if on all that are looked at.

    \b
      fedprune task check mine/task.toml --data photos --device "Pi Zero 2 W"
    """
    from export.checking.check import check_task  # what it needs is loaded when it is needed
    from export.checking.display import show as display_check
    from export.report import Format

    devices = _devices(device_names)
    try:
        chain = parse_codec(codec)
    except ValueError as error:
        raise ConfigurationError(f"--codec: {error}") from error
    found = check_task(*_named(config), data, chain, devices, () if quick else tuple(Format), tell_watcher)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))
    else:
        display_check(found)
    return int(found.fails)


def _named(config: Path) -> tuple[str, Callable[[], bytes]]:
    """The task's name, and what builds it, or has built it."""
    if config.suffix != ".toml":
        bundle = load_bundle(config)
        return bundle.task.name, lambda: bundle.blob
    settings = load_toml(config, TaskSettings)

    def build() -> bytes:
        tell_watcher(_BUILDING)
        from export.build import build_task

        return build_task(settings, config.parent)

    return settings.name, build


def _devices(names: Sequence[str]) -> Sequence[DeviceClass]:
    """Raises `ConfigurationError` for a class that is not known."""
    known = {device.name.lower(): device for device in DEVICES}
    if unknown := [name for name in names if name.lower() not in known]:
        raise ConfigurationError(
            f"--device {unknown[0]!r}: it is none of {', '.join(device.name for device in DEVICES)}"
        )
    return [known[name.lower()] for name in names] or DEVICES


@task.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the whole task as JSON.")
def show(bundle: Path, as_json: bool) -> None:
    """Show what BUNDLE (a .fedtask) holds: its tensors, training, pruning schedule and sizes."""
    opened = load_bundle(bundle)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(display.summary_of(opened)), indent=2))
    else:
        display.show(opened)
