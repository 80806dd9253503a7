"""`fedprune task`: what a federation learns, built once on a workstation. TensorFlow is loaded when it is needed."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from export import show as display
from export.settings import TaskSettings
from fedprune.config import load_toml
from fedprune.system.disk import Directory
from fedprune.system.output import say
from fedprune.task.bundle import load_bundle


@click.group()
def task() -> None:
    """Build or show a task bundle: what a federation learns."""


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

    from export.build import build_task  # imports TensorFlow: after what is cheap to refuse

    blob = build_task(settings, config.parent)
    Directory(out.parent).write(out.name, blob)
    say(f"{out}: task {settings.name!r}, {len(blob)} bytes")


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
