"""The parts of the federations' benchmark that need no federation: the data that it makes, and what it says of runs."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import numpy as np
import pytest

from benchmarks.demo.rerun import parse_seeds, settled_accuracy
from benchmarks.federations import keywords, pictures, sentences, utterances, windows
from benchmarks.federations.command import claims
from benchmarks.federations.figures import Figures, Learned, Pair, TaskPair, compare
from benchmarks.federations.scenarios import LEARNED, PAIRED, TASKS, Scenario
from fedprune.data import Dataset, load_npz
from fedprune.data.description import Data
from fedprune.data.loading import read_examples

_MAKERS: dict[str, tuple[Callable[[int, int], Dataset], tuple[int, ...], int]] = {
    "windows": (lambda seed, count: windows.people(seed, 0, 1, count)[0], windows.SHAPE, len(windows.ACTIVITIES)),
    "keywords": (keywords.spoken, keywords.SHAPE, keywords.WORDS),
    "pictures": (pictures.pictures, pictures.SHAPE, len(pictures.CLASSES)),
}


@pytest.mark.parametrize("name", _MAKERS)
def test_made_data_have_their_shape_and_as_many_of_each_class(name: str) -> None:
    make, shape, classes = _MAKERS[name]
    data = make(1, 5 * classes)
    assert data.x.shape == (5 * classes, *shape)
    assert data.x.dtype == np.float32
    assert np.isfinite(data.x).all()
    assert data.class_numbers is not None
    assert np.bincount(data.class_numbers).tolist() == [5] * classes


@pytest.mark.parametrize("name", _MAKERS)
def test_made_data_are_those_of_their_seed(name: str) -> None:
    make = _MAKERS[name][0]
    first, again, other = make(1, 24), make(1, 24), make(2, 24)
    assert np.array_equal(first.x, again.x)
    assert np.array_equal(first.y, again.y)
    assert not np.array_equal(first.x, other.x)


def test_people_are_who_they_are_however_many_there_are() -> None:
    two, one = windows.people(3, 4, 2, 12), windows.people(3, 5, 1, 12)
    assert np.array_equal(two[1].x, one[0].x)
    assert not np.array_equal(two[0].x, two[1].x)


def test_a_window_is_in_g() -> None:
    """Whoever lies, sits or stands feels gravity, of which no way of wearing the sensor changes the length."""
    data = windows.people(1, 0, 1, 60)[0]
    still = data.x[data.y >= 3].mean(axis=1)
    assert np.linalg.norm(still, axis=1) == pytest.approx(np.ones(30), abs=0.1)


def test_words_are_the_same_whoever_speaks_them() -> None:
    """A word's mean picture is more like its own, of other speakers, than like another word's."""
    first, second = (_means(keywords.spoken(seed, 3600)) for seed in (1, 2))
    likeness = first @ second.T
    assert likeness.argmax(axis=1).tolist() == list(range(keywords.WORDS))


def test_pictures_stay_within_what_a_screen_shows() -> None:
    data = pictures.pictures(1, 12)
    assert 0.0 <= data.x.min() < 0.3
    assert 0.5 < data.x.max() <= 1.0


@pytest.mark.parametrize(
    ("scenario", "shared", "held_out"),
    [(PAIRED["window-cnn"], 4 * 600, 4 * 600), (LEARNED["window-cnn"].scenario, 24 * 300, 6 * 300)],
    ids=["pairs", "learned"],
)
def test_no_window_that_is_held_out_is_an_agents(
    tmp_path: Path, scenario: Scenario, shared: int, held_out: int
) -> None:
    scenario.prepare(7, tmp_path)
    agents = [load_npz(tmp_path / f"agent-{index}.npz") for index in range(scenario.agents)]
    seen = {window.tobytes() for data in agents for window in data.x}
    others = {window.tobytes() for window in load_npz(tmp_path / "held-out.npz").x}
    assert (len(seen), len(others)) == (shared, held_out)
    assert seen.isdisjoint(others)


def test_the_interval_is_the_paired_t_interval() -> None:
    """Differences of 1, 2 and 3 points: mean 2, standard error 1/sqrt 3, and t(0.975, 2) = 4.3027 from any table."""
    parity = compare("any", [_pair(seed, seed / 100) for seed in (1, 2, 3)])

    assert parity.difference_points == pytest.approx(2.0)
    assert parity.interval_points == pytest.approx((2.0 - 4.3027 / 3**0.5, 2.0 + 4.3027 / 3**0.5), abs=1e-3)


@pytest.mark.parametrize(
    ("differences", "accuracy", "verdicts"),
    [
        ((-0.002, 0.001, 0.002), 0.8, (True, True)),
        ((0.012, 0.013, 0.014), 0.8, (False, True)),
        ((-0.03, 0.0, 0.03), 0.8, (False, True)),
        ((0.0, 0.0, 0.0), 1.0, (True, False)),
        ((0.0, 0.0, 0.0), 0.1, (True, False)),
    ],
    ids=["alike", "one better", "too few to say", "both perfect", "both at chance"],
)
def test_pairs_hold_within_a_point_where_the_accuracy_tells_anything(
    differences: tuple[float, ...], accuracy: float, verdicts: tuple[bool, bool]
) -> None:
    pairs = [_pair(seed, difference, accuracy) for seed, difference in enumerate(differences)]
    assert tuple(claims(Figures((compare("any", pairs),), (), (), 1.0)).values()) == verdicts


@pytest.mark.parametrize(("difference", "verdict"), [(0.019, True), (-0.019, True), (0.021, False), (-0.021, False)])
def test_a_task_holds_within_two_points_on_either_side(difference: float, verdict: bool) -> None:
    task = TaskPair("speech", 8, _pair(1, difference))
    assert list(claims(Figures((), (task,), (), 1.0)).values()) == [verdict, True]


@pytest.mark.parametrize("name", TASKS)
def test_nothing_that_is_held_out_is_an_agents(tmp_path: Path, name: str) -> None:
    """Of what tasks make their examples of, whole files or lines of files."""
    scenario = TASKS[name]
    prepared = scenario.prepare(7, tmp_path / "data")
    described = msgspec.convert(tomllib.loads(prepared.data), Data)
    *agents, held_out = (
        [row.tobytes() for row in read_examples(tmp_path / "data" / f"{who}{prepared.suffix}", described).x]
        for who in (*(f"agent-{index}" for index in range(scenario.agents)), "held-out")
    )
    seen = {row for rows in agents for row in rows}
    assert {len(rows) for rows in agents} == {len(seen) // scenario.agents}
    assert seen.isdisjoint(held_out)
    assert len(held_out) >= 2000


def test_sentences_are_those_of_their_seed_with_as_many_of_each_topic() -> None:
    first, again, other = (sentences.written(seed, 40) for seed in (1, 1, 2))
    assert first == again != other
    assert {topic: sum(each.topic == topic for each in first) for topic in sentences.TOPICS} == dict.fromkeys(
        sentences.TOPICS, 10
    )


def test_utterances_are_those_of_their_seed_with_as_many_of_each_word() -> None:
    (first, y), (again, _), (other, _) = (utterances.uttered(seed, 16) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.bincount(y).tolist() == [2] * len(utterances.WORDS)


def test_what_is_learned_is_asked_of_the_pruned_model() -> None:
    name = next(iter(LEARNED))
    good, bad = (Learned(name, 1, accuracy, 0.5, 0.8, 0.99, 0.99) for accuracy in (LEARNED[name].least, 0.8))
    assert list(claims(Figures((), (), (good,), 1.0)).values()) == [True]
    assert list(claims(Figures((), (), (bad,), 1.0)).values()) == [False]


def test_a_settled_accuracy_is_the_mean_of_the_last_five_rounds() -> None:
    assert settled_accuracy([0.1, 0.5, 0.6, 0.7, 0.8, 0.9]) == pytest.approx(0.7)


def test_seeds_are_different_whole_numbers() -> None:
    assert parse_seeds("3,1", least=2) == (3, 1)
    for text in ("1", "1,1", "1,x", "1,-2", ""):
        with pytest.raises(click.BadParameter, match="give"):
            parse_seeds(text, least=2)


def _pair(seed: int, difference: float, accuracy: float = 0.8) -> Pair:
    return Pair(seed, "any data", accuracy + difference, accuracy, 0.8, 0.8)


def _means(data: Dataset) -> np.ndarray:
    """Each class's mean, less the mean of all, of length 1."""
    means = np.stack([data.x[data.y == label].mean(axis=0).ravel() for label in range(keywords.WORDS)])
    means -= means.mean(axis=0)
    return means / np.linalg.norm(means, axis=1, keepdims=True)
