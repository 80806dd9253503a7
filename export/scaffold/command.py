"""`fedprune init`: from a model and a folder to the files of a federation."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import click
import msgspec

from export.scaffold.data_look import check_there, look_at_data
from export.scaffold.describing import describe_data
from export.scaffold.files import agent_toml, federation_toml, task_toml
from export.scaffold.model_look import ModelLook, look_at_model
from export.scaffold.plan import Plan, Wishes, make_plan
from export.scaffold.questions import Questions
from fedprune.data.description import Data, Text, Vocabulary
from fedprune.errors import ConfigurationError, StorageError, TaskError
from fedprune.system.disk import Directory
from fedprune.system.output import say, tell_watcher
from fedprune.system.paths import path_text, shell_text
from fedprune.system.process import log_to_stderr
from fedprune.wire.topics import check_id

_FILES = ("task.toml", "federation.toml", "agent.toml")
_MAX_NAME = 40


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--from",
    "model",
    metavar="model.py|model.keras|module:function",
    help="Your Keras model: a saved file, or Python code with a model in it or a function that returns one, which is "
    "run whenever the task is built.",
)
@click.option(
    "--data",
    metavar="PATH",
    help="Your examples: a folder of pictures or .wav files by class, .csv, .jsonl, .npz, or file.py:function.",
)
@click.option("--name", help="The federation's name.  [default: that of DIRECTORY]")
@click.option("--label", metavar="COLUMN", help="Of .csv and .jsonl: the column with the labels.")
@click.option("--targets", metavar="classes|numbers", help="What the labels in that column are.")
@click.option("--inputs", metavar="COLUMN,COLUMN,…", help="Of .csv: the columns that the model takes.")
@click.option("--group", metavar="COLUMN|none", help="Of windows: the column that tells people or machines apart.")
@click.option("--stride", metavar="ROWS", help="From one window to the next.  [default: half a window]")
@click.option("--text", metavar="COLUMN", help="Of text: its column.")
@click.option(
    "--tokenizer", metavar="hashed-words|bytes|FILE", help="How text becomes ids; FILE has a word on each line."
)
@click.option("--seconds", metavar="S", help="Of recordings: how much of each is taken.  [default: their usual length]")
@click.option("--front-end", metavar="log-mel|mfcc|waveform", help="What the model sees of recordings.")
@click.option("--loss", metavar="LOSS", help="Instead of the one that suits the model's end and the labels.")
@click.option("--agents", type=click.IntRange(1, 100_000), default=4, show_default=True, help="Agents in each round.")
@click.option("--rounds", type=click.IntRange(1, 1_000_000), default=20, show_default=True, help="Rounds.")
@click.option(
    "--sparsity",
    type=click.FloatRange(0, 1, max_open=True),
    help="The part of the weights to prune.  [default: 0.8; of models below 10,000 weights 0.5]",
)
def init(
    directory: Path,
    model: str | None,
    data: str | None,
    name: str | None,
    agents: int,
    rounds: int,
    sparsity: float | None,
    **options: str | None,
) -> None:
    """Write task.toml, federation.toml and agent.toml into DIRECTORY, for your model and your data.

    It looks at both: at the model in a process with TensorFlow, at the data as devices will read them. What it cannot
    know it asks, or names the option that answers. Files that are there are never overwritten.

    \b
      fedprune init mine --from model.py --data photos
      fedprune simulate mine
      fedprune export mine/simulation/run
    """
    log_to_stderr("init", verbose=False)
    _check_free(directory)
    name = _name(directory) if name is None else check_id(name, "--name")
    questions = Questions(
        {"from": model, "data": data, **{key.replace("_", "-"): value for key, value in options.items()}}
    )
    path = Path(questions.ask("data", "where your examples are"))
    check_there(path)
    looked = _look_at_model(questions.ask("from", "where your Keras model is"), questions)
    look = look_at_data(path, looked)
    described = describe_data(path, look, looked, questions)
    plan = make_plan(path, look, described, looked, questions, Wishes(agents, rounds, sparsity))
    unused = [
        f"--{option} says nothing about such data or such a model, and is left out" for option in questions.unused
    ]
    for note in (*plan.notes, *unused):
        say(f"Note: {note}")
    plan = replace(plan, data=_seen_from(directory, plan.data))
    texts = {
        "task.toml": task_toml(name, _relative(directory, looked.source), looked, plan),
        "federation.toml": federation_toml(name, plan),
        "agent.toml": agent_toml(name, _relative(directory, str(path))),
    }
    _write_all(directory, texts)
    say(_told(directory, plan, looked))


def _write_all(directory: Path, texts: Mapping[str, str]) -> None:
    """Write all files, or none: some of them would be in the way of whoever calls `init` again."""
    place = Directory(directory)
    try:
        for file, text in texts.items():
            place.write(file, text.encode())
    except BaseException:
        with suppress(StorageError):  # why writing failed is what counts
            for file in texts:
                place.delete(file)
        raise


def _check_free(directory: Path) -> None:
    """Raise `ConfigurationError` if a file would be overwritten."""
    if there := [file for file in _FILES if (directory / file).exists()]:
        raise ConfigurationError(f"{directory / there[0]}: there already; name another directory, or remove the file")


def _name(directory: Path) -> str:
    """The directory's name, as far as a federation may be called so."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", directory.absolute().name)[:_MAX_NAME].strip("-") or "mine"


def _look_at_model(source: str, questions: Questions) -> ModelLook:
    """The model; which it is of several in one file is asked. Raises `TaskError`."""
    tell_watcher(f"Looking at {path_text(source)} with TensorFlow, which has to start")
    looked = look_at_model(source, Path.cwd())
    if isinstance(looked, ModelLook):
        return looked
    if not looked.names:
        raise TaskError(
            f"{source}: it has neither a Keras model nor a function that returns one without arguments; name it as "
            f"{source}:function"
        )
    chosen = questions.choose(f"which of {source} is the model", looked.names, lambda each: f"--from {source}:{each}")
    found = look_at_model(f"{source}:{chosen}", Path.cwd())
    assert isinstance(found, ModelLook)  # a name stands for one
    return found


def _seen_from(directory: Path, data: Data) -> Data:
    """The description with the path of its vocabulary relative to the directory."""
    if isinstance(data, Text) and isinstance(data.tokenizer, Vocabulary) and data.tokenizer.file is not None:
        return msgspec.structs.replace(data, tokenizer=Vocabulary(file=_relative(directory, data.tokenizer.file)))
    return data


def _relative(directory: Path, source: str) -> str:
    """A path as task.toml and agent.toml name it, relative to themselves. A module that is installed stays as it is."""
    place, colon, function = source.rpartition(":")
    if colon and not place.endswith(".py") and not Path(place).exists() and "/" not in place:
        beside = Path(*place.split(".")).with_suffix(".py")
        if not beside.is_file():
            return source
        source = f"{beside}:{function}"
    return os.path.relpath(source, directory)


def _columns(data: Data) -> Iterator[tuple[str, str]]:
    """The columns that were found or given."""
    for key in ("label", "group", "text", "inputs"):
        value = getattr(data, key, None)
        if value is not None:
            yield key, value if isinstance(value, str) else ", ".join(value)


def _told(directory: Path, plan: Plan, model: ModelLook) -> str:
    form = msgspec.to_builtins(plan.data)["form"]
    classes = f", {len(labels)} classes" if (labels := getattr(plan.data, "labels", ())) else ""
    columns = "".join(f"; {key} {path_text(value)}" for key, value in _columns(plan.data))
    return f"""\
{path_text(model.source)}: {model.parameters:,} weights, {plan.loss}
{path_text(form)}: {plan.examples:,} examples{classes}{columns}
{", ".join(_FILES)} are in {path_text(directory)}. Look at them, then run
  fedprune simulate {shell_text(directory)}    # on this machine, with {plan.agents} agents
or build the task for devices: fedprune task build {shell_text(directory / "task.toml")} --out \
{shell_text(directory / "task.fedtask")}"""
