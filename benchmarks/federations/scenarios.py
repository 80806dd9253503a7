"""The federations: each a network, everybody's data, and how long they train. Nothing here imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.demo.settings import cnn_table
from benchmarks.federations import sentences, utterances
from benchmarks.federations.keywords import spoken
from benchmarks.federations.pictures import pictures
from benchmarks.federations.windows import people
from fedprune.data import Dataset
from fedprune.data.dataset import Source
from fedprune.data.npz import save_npz
from fedprune.data.partition import Dirichlet, Iid
from fedprune.data.prepare import prepare
from fedprune.data.source import open_source

_NEW_PEOPLE = 6
_SPOKEN_HELD_OUT, _PICTURES_HELD_OUT = 9600, 800
_IMAGES_HELD_OUT = 10_000
_READ_HELD_OUT, _HEARD_HELD_OUT = 6000, 2400


@dataclass(frozen=True)
class Prepared:
    """What a seed makes of a scenario: the name of the data, the tables ``[model]`` and ``[data]`` of task.toml, and
    the end of the names of everybody's data."""

    source: str
    model: str
    data: str = ""
    suffix: str = ".npz"


@dataclass(frozen=True)
class Scenario:
    """A federation. `prepare` writes agent-0 and so on, and held-out, into a directory, as the seed has it. The
    learning rate is that of SGD with momentum, or of Adam; with `alpha` it falls to so much of itself."""

    prepare: Callable[[int, Path], Prepared]
    agents: int
    steps_per_round: int
    rounds: int
    learning_rate: float = 0.05
    alpha: float | None = None
    adam: bool = False


@dataclass(frozen=True)
class Goal:
    """A scenario, and the least accuracy that its pruned federation must have, the mean over seeds: a fraction."""

    scenario: Scenario
    least: float


def _real_images(agents: int, examples: int) -> Callable[[int, Path], Prepared]:
    """CNN-108k, and images of unevenly spread classes."""

    def share(seed: int, path: Path) -> Prepared:
        split = prepare(
            open_source("auto"),
            Dirichlet(0.5),
            agents=agents,
            examples_per_agent=examples,
            held_out=_IMAGES_HELD_OUT,
            seed=seed,
            out=path,
        )
        return Prepared(split.source, cnn_table(split, seed))

    return share


def _made(
    function: str, make: Callable[[int, int], Dataset], *, agents: int, examples: int, held_out: int
) -> Callable[[int, Path], Prepared]:
    """A network of `networks`, and examples that are made for it, of the same kind everywhere."""

    def share(seed: int, path: Path) -> Prepared:
        whole, shared = make(seed, agents * examples + held_out), agents * examples
        train, test = whole.take(np.arange(shared)), whole.take(np.arange(shared, len(whole)))
        source = Source(train.origin, train, test)
        prepare(source, Iid(), agents=agents, examples_per_agent=examples, held_out=held_out, seed=seed, out=path)
        return Prepared(train.origin, _table(function, seed))

    return share


def _people(agents: int, *, each: int, windows: int) -> Callable[[int, Path], Prepared]:
    """The network for windows, and agents with `windows` of each of `each` people; as many others are held out.

    These are of the same people: new ones are harder to tell, and by how much differs from one training to the next.
    """

    def share(seed: int, path: Path) -> Prepared:
        first, second = np.split(np.arange(2 * windows), 2)
        held_out = list[Dataset]()
        for index in range(agents):
            own = people(seed, index * each, each, 2 * windows)
            save_npz(path / f"agent-{index}.npz", _joined([data.take(first) for data in own]))
            held_out += [data.take(second) for data in own]
        save_npz(path / "held-out.npz", _joined(held_out))
        return Prepared(f"accelerometer windows of {agents * each} people", _table("window_cnn", seed))

    return share


def _people_and_others(agents: int, *, windows: int) -> Callable[[int, Path], Prepared]:
    """The network for windows; every agent is a person, and people who are nobody's agent are held out."""

    def share(seed: int, path: Path) -> Prepared:
        for index, data in enumerate(people(seed, 0, agents, windows)):
            save_npz(path / f"agent-{index}.npz", data)
        save_npz(path / "held-out.npz", _joined(people(seed, agents, _NEW_PEOPLE, windows)))
        source = f"accelerometer windows of {agents} people, tested on {_NEW_PEOPLE} others"
        return Prepared(source, _table("window_cnn", seed))

    return share


def _sentences(function: str, agents: int, *, examples: int, held_out: int) -> Callable[[int, Path], Prepared]:
    """A network that reads, and JSONL files of sentences."""

    def share(seed: int, path: Path) -> Prepared:
        path.mkdir()
        everything = sentences.written(seed, agents * examples + held_out)
        for name, first, last in _shares(agents, examples, held_out):
            sentences.write_sentences(path / f"{name}.jsonl", everything[first:last])
        return Prepared("sentences", _table(function, seed), sentences.DATA, ".jsonl")

    return share


def _utterances(agents: int, *, examples: int, held_out: int) -> Callable[[int, Path], Prepared]:
    """The keyword spotter, and folders of WAV files."""

    def share(seed: int, path: Path) -> Prepared:
        samples, y = utterances.uttered(seed, agents * examples + held_out)
        for name, first, last in _shares(agents, examples, held_out):
            utterances.write_utterances(path / name, samples[first:last], y[first:last])
        return Prepared("utterances", _table("keyword_cnn", seed), utterances.DATA, "")

    return share


def _shares(agents: int, examples: int, held_out: int) -> Iterator[tuple[str, int, int]]:
    """The name of everybody's data, and which examples they are: from one to before another."""
    for index in range(agents):
        yield f"agent-{index}", index * examples, (index + 1) * examples
    yield "held-out", agents * examples, agents * examples + held_out


def _joined(parts: list[Dataset]) -> Dataset:
    return Dataset(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))


def _table(function: str, seed: int) -> str:
    return f'file = "benchmarks.federations.networks:{function}"\ninitial = "seed"\nseed = {seed}'


PAIRED = {
    "cnn-108k": Scenario(_real_images(4, 600), agents=4, steps_per_round=19, rounds=15),
    "window-cnn": Scenario(
        _people(4, each=6, windows=100), agents=4, steps_per_round=20, rounds=30, learning_rate=0.01
    ),
    "ds-cnn": Scenario(
        _made("ds_cnn", spoken, agents=3, examples=640, held_out=_SPOKEN_HELD_OUT),
        agents=3,
        steps_per_round=20,
        rounds=40,
        learning_rate=0.01,
        alpha=0.05,
    ),
    "gru": Scenario(
        _sentences("gru_reader", 3, examples=640, held_out=_READ_HELD_OUT),
        agents=3,
        steps_per_round=20,
        rounds=15,
        learning_rate=0.01,
        adam=True,
    ),
    "transformer": Scenario(
        _sentences("transformer_reader", 3, examples=640, held_out=_READ_HELD_OUT),
        agents=3,
        steps_per_round=20,
        rounds=15,
        learning_rate=0.005,
        adam=True,
    ),
}
"""Each runs on either trainer. Learning rates with batch normalisation are low: at 0.05, and with Keras' own
momentum, the accuracy went up and down by two points from round to round, which hides how far trainers are apart."""

TASKS = {
    "text": Scenario(
        _sentences("gru_reader", 8, examples=240, held_out=_READ_HELD_OUT),
        agents=8,
        steps_per_round=12,
        rounds=15,
        learning_rate=0.01,
        adam=True,
    ),
    "speech": Scenario(_utterances(8, examples=160, held_out=_HEARD_HELD_OUT), agents=8, steps_per_round=10, rounds=20),
}
"""Each has devices' own files, from which the task's form makes examples, and runs on either trainer."""

LEARNED = {
    "window-cnn": Goal(
        Scenario(_people_and_others(24, windows=300), agents=24, steps_per_round=20, rounds=40), least=0.85
    ),
    "mobilenet": Goal(
        Scenario(
            _made("small_mobilenet", pictures, agents=4, examples=200, held_out=_PICTURES_HELD_OUT),
            agents=4,
            steps_per_round=14,
            rounds=30,
        ),
        least=0.70,
    ),
}
"""Each learns well enough, with 80 % pruned."""
