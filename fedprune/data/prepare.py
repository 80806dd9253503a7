"""From a whole data set to one file for each agent, and one that is held out for the aggregator."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedprune.data.dataset import Dataset, Source
from fedprune.data.hold_out import set_aside
from fedprune.data.npz import save_npz
from fedprune.data.partition import ByGroup, Dirichlet, Partition, partition, partition_groups
from fedprune.errors import DataError
from fedprune.model.randomness import Keyed
from fedprune.system.disk import Directory

_HELD_OUT_SHARE = 5
"""One example in so many is held out where the data have no test split of their own."""


class Part(msgspec.Struct, frozen=True):
    """One file of a split: its name in the split's directory, and its number of examples, in all and by class.

    `per_class` is empty where labels are not one class number for each example.
    """

    file: str
    examples: int
    per_class: dict[int, int]


class SplitSummary(msgspec.Struct, frozen=True):
    """The description of a split, which `split.json` holds. `note` is that of the `Source`, `input_shapes` are those of
    an example by the names of the arrays.

    `classes` is 0 where labels are not one class number for each example.
    """

    source: str
    note: str
    partition: str
    seed: int
    input_shapes: dict[str, tuple[int, ...]]
    classes: int
    agents: tuple[Part, ...]
    held_out: Part


def prepare(
    source: Source, how: Partition, *, agents: int, examples_per_agent: int, held_out: int, seed: int, out: Path
) -> SplitSummary:
    """Write `agent-0.npz`, `agent-1.npz`, …, `held-out.npz` and `split.json` into `out`, each whole or not at all.

    The agents' examples come from the training split. At most `held_out` examples come from the test split; where
    there is none, at most a fifth of the data is held out and the agents share the rest. Held-out examples are drawn
    class by class, in proportion; where `y` does not hold one for each example, all alike. Windows that overlap are
    held out by time instead (see `set_aside`). By group a fifth of the groups is held out, and agents have all of
    their examples, but no more than `examples_per_agent`.

    Where the source stands in for another (it has a note) and is too small, or windows had to be left out, the agents
    get fewer examples each, and the note says so. Otherwise raises `DataError` for too few examples, or none with a
    class where classes are to be skewed; `StorageError` where `out` cannot be written.
    """
    if isinstance(how, Dirichlet) and source.train.class_numbers is None:
        names = list(source.train.labels)
        are = "is" if len(names) == 1 else "are"
        raise DataError(
            f"{source.name}: {' and '.join(names)} {are} not one class number an example, which {how} needs; "
            "share it out with --partition iid"
        )
    note = source.note
    try:
        if isinstance(how, ByGroup):
            train, test, shares = _by_group(source, agents, examples_per_agent, held_out, seed)
        else:
            train, test = _train_and_test(source, held_out, seed)
            examples, note = _affordable(source, len(train), agents, examples_per_agent)
            shares = partition(_classes(train), agents, examples, how, Keyed(seed, "partition"))
    except DataError as error:
        raise DataError(f"{source.name}: {error}") from None
    summary = SplitSummary(
        source=source.name,
        note=note,
        partition=str(how),
        seed=seed,
        input_shapes={name: x.shape[1:] for name, x in train.inputs.items()},
        classes=max(_class_count(train), _class_count(test)),
        agents=tuple(_write(out / f"agent-{index}.npz", train.take(share)) for index, share in enumerate(shares)),
        held_out=_write(out / "held-out.npz", test),
    )
    Directory(out).write("split.json", msgspec.json.format(msgspec.json.encode(summary)))
    return summary


def _by_group(
    source: Source, agents: int, most: int, held_out: int, seed: int
) -> tuple[Dataset, Dataset, list[NDArray[np.int64]]]:
    """What agents share, what is held out, and each agent's share, of at most so many examples."""
    if source.train.provenance is None or source.test is not None:
        raise DataError(
            "nothing tells groups apart; name their column in data.group, or share it out with --partition iid"
        )
    groups = source.train.provenance.groups
    names = np.unique(groups)
    apart = names[Keyed(seed, "held-out").permutation(len(names))[: max(1, len(names) // _HELD_OUT_SHARE)]]
    is_apart = np.isin(groups, apart)
    shares = partition_groups(groups[~is_apart], agents, Keyed(seed, "partition"))
    rest, chosen = np.flatnonzero(~is_apart), np.flatnonzero(is_apart)[:held_out]
    return source.train.take(rest), source.train.take(chosen), [share[:most] for share in shares]


def _train_and_test(source: Source, held_out: int, seed: int) -> tuple[Dataset, Dataset]:
    whole = source.test or source.train
    limit = len(whole) if source.test else len(whole) // _HELD_OUT_SHARE
    if source.test is None and whole.provenance is not None and whole.provenance.overlap:
        rest, chosen = set_aside(whole, min(held_out, limit) / len(whole), "time", Keyed(seed, "held-out"))
        _check_some(whole, chosen)
        return whole.take(rest), whole.take(chosen)
    chosen = _stratified(_classes(whole), min(held_out, limit), Keyed(seed, "held-out"))
    _check_some(whole, chosen)
    if source.test:
        return source.train, whole.take(chosen)
    return whole.take(np.setdiff1d(np.arange(len(whole)), chosen)), whole.take(chosen)


def _check_some(whole: Dataset, chosen: NDArray[np.int64]) -> None:
    if not len(chosen):
        classes = len(np.unique(_classes(whole)))
        raise DataError(
            f"nothing would be held out of {len(whole)} examples in {classes} classes; "
            f"it takes {_HELD_OUT_SHARE} examples of a class, and one held out for each class"
        )


def _classes(dataset: Dataset) -> NDArray[np.int64]:
    """Each example's class; without these all are of one."""
    return np.zeros(len(dataset), np.int64) if dataset.class_numbers is None else dataset.class_numbers


def _class_count(dataset: Dataset) -> int:
    return 0 if dataset.class_numbers is None else int(dataset.class_numbers.max()) + 1


def _stratified(labels: NDArray[np.int64], size: int, keyed: Keyed) -> NDArray[np.int64]:
    """Ascending indices of at most `size` examples: of each class its proportional number, rounded down."""
    shuffled = keyed.permutation(len(labels))
    members = (shuffled[labels[shuffled] == label] for label in np.unique(labels))
    return np.sort(np.concatenate([these[: len(these) * size // len(labels)] for these in members]))


def _affordable(source: Source, available: int, agents: int, wanted: int) -> tuple[int, str]:
    """The number of examples an agent, and the note that goes with it."""
    provenance = source.train.provenance
    note = source.note or (
        "windows that overlap held-out ones are left out" if provenance and provenance.overlap else ""
    )
    if not note or agents * wanted <= available:
        return wanted, source.note
    examples = max(1, available // agents)
    return examples, f"{note}; {available} examples are enough for {examples} instead of {wanted} an agent"


def _write(path: Path, dataset: Dataset) -> Part:
    save_npz(path, dataset)
    labels = dataset.class_numbers
    classes, counts = np.unique(np.zeros(0) if labels is None else labels, return_counts=True)
    return Part(path.name, len(dataset), dict(zip(classes.tolist(), counts.tolist(), strict=True)))
