"""The gathering of statistics before the first round: over real runners, book and disk, with the agents' own code."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.book import Book
from aggregator.gathering import GatheringRunner, forget_given, gathering_plan, load_pooled
from aggregator.round_answers import ticket
from aggregator.round_state import Phase
from edge_agent.gathering import give_statistics
from edge_agent.local_round import LocalResult, LocalRound
from fedprune.data import Dataset
from fedprune.data.description import Standard
from fedprune.data.normalization import inputs_of, lacks_statistics, targets_of
from fedprune.data.statistics import DeviceStatistics, Moments, pack_statistics, unpack_statistics
from fedprune.errors import StorageError, TrainingError
from fedprune.system.disk import Directory
from fedprune.task.bundle import Bundle
from fedprune.task.gathering import is_incomplete, load_to_look, with_data
from fedprune.wire.link import Delivery
from fedprune.wire.messages import (
    Accepted,
    Assignment,
    CheckIn,
    Failed,
    Message,
    Reason,
    Rejected,
    decode,
    encode,
    kind_of,
)
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import content_of
from tests.drivers import PLAN
from tests.recorder import Recorder
from tests.regressions import loading, raw_columns, regression_bundle, write_table
from tests.samples import chunks

TOPICS = Topics("tests")
BUNDLE = regression_bundle()
DIGEST = content_of(BUNDLE.blob).digest
FLEET = ("pi-0", "pi-1", "pi-2")
DATA = {
    name: raw_columns(examples, seed) for seed, (name, examples) in enumerate(zip(FLEET, (40, 200, 75), strict=True))
}


class Gathering:
    """A gateway's directory, and one gathering after another in it, as its process is started."""

    def __init__(self, path: Path, bundle: Bundle = BUNDLE, **settings: object) -> None:
        self.path, self.bundle = path, bundle
        self.run, self.given = Directory(path), Directory(path / "statistics")
        whole = replace(PLAN, cohort=3, quorum=3, task=content_of(bundle.blob), **settings)  # type: ignore[arg-type]
        self.plan = gathering_plan(whole)

    def start(self) -> GatheringRunner:
        self.link = Recorder()
        book = Book.open(self.path / "statistics" / "book.sqlite")
        run, incarnation = book.start("gathering", content_of(self.bundle.blob).digest, {})
        self.plan = replace(self.plan, run=run, incarnation=incarnation)
        self.runner = GatheringRunner(
            self.plan, self.bundle, TOPICS, self.link, book, self.given, self.run, clock=lambda: 0.0
        )
        self.runner.connect()
        return self.runner

    def tell(self, agent: str, *messages: Message) -> None:
        for message in messages:
            if isinstance(message, CheckIn):
                message = msgspec.structs.replace(message, ticket=ticket(self.plan.ticket_key, agent))
            self.runner.deliver(Delivery(TOPICS.up(agent, kind_of(message)), encode(message)))
            self.runner.settle()

    def heard(self, agent: str, kind: type[Message]) -> list[Message]:
        name = next(name for name in ("assignment", "accepted", "rejected") if name == kind.__name__.lower())
        return [decode(kind, payload) for payload in self.link.on(TOPICS.down(agent, name))]

    def all_check_in(self, examples: Callable[[str], int] = lambda agent: len(DATA[agent])) -> None:
        for agent in FLEET:
            self.tell(agent, CheckIn(examples=examples(agent)))

    def statistics_of(self, agent: str, data: Dataset) -> LocalResult:
        (assignment,) = self.heard(agent, Assignment)[-1:]
        assert isinstance(assignment, Assignment)
        local = LocalRound(agent, assignment, b"", lambda: None, None, 0.0)
        return give_statistics(local, self.bundle.for_devices(), loading(data))

    def gives(self, agent: str, data: Dataset | None = None, blob: bytes = b"", **claims: object) -> None:
        """An agent submits its statistics; `blob` is what it sends instead, `claims` what it says of it."""
        result = self.statistics_of(agent, DATA[agent] if data is None else data)
        blob = blob or result.update.blob
        submit = msgspec.structs.replace(result.submit, update=content_of(blob), **claims)
        self.tell(agent, submit, *chunks(blob))

    @property
    def normalisation(self) -> tuple[Standard, Standard]:
        pooled = load_pooled(self.run, DIGEST)
        assert pooled is not None
        inputs, targets = inputs_of(pooled.data), targets_of(pooled.data)
        assert isinstance(inputs, Standard)
        assert isinstance(targets, Standard)
        return inputs, targets


@pytest.fixture
def gathering(tmp_path: Path) -> Gathering:
    return Gathering(tmp_path / "run")


def whole(agents: Sequence[str] = FLEET) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.concatenate([DATA[agent].x for agent in agents]).astype(np.float64),
        np.concatenate([DATA[agent].y for agent in agents]).astype(np.float64),
    )


def expect(found: tuple[Standard, Standard], agents: Sequence[str]) -> None:
    for normalisation, values in zip(found, whole(agents), strict=True):
        np.testing.assert_allclose(normalisation.mean, values.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(normalisation.std, values.std(axis=0), rtol=1e-6)


def test_the_statistics_are_those_of_all_devices_examples(gathering: Gathering) -> None:
    runner = gathering.start()
    gathering.all_check_in()
    for agent in FLEET:
        gathering.gives(agent)

    assert runner.is_done
    expect(gathering.normalisation, FLEET)
    assert all(gathering.heard(agent, Accepted) for agent in FLEET)


def test_what_single_devices_gave_is_gone_once_it_is_pooled(gathering: Gathering) -> None:
    gathering.start()
    gathering.all_check_in()
    for agent in FLEET:
        gathering.gives(agent)

    assert not [name for name in gathering.given.names() if "pi-" in name]


def test_the_task_of_the_rounds_names_the_statistics_and_is_another_one(gathering: Gathering) -> None:
    gathering.start()
    gathering.all_check_in()
    for agent in FLEET:
        gathering.gives(agent)
    pooled = load_pooled(gathering.run, DIGEST)
    assert pooled is not None

    complete = with_data(BUNDLE, pooled.data)

    assert is_incomplete(BUNDLE.task)
    assert not is_incomplete(complete.task)
    assert not lacks_statistics(complete.task.data)
    assert content_of(complete.blob).digest != DIGEST
    assert with_data(BUNDLE, pooled.data).blob == complete.blob
    assert complete.task.output_forms[0].unit == gathering.normalisation[1].std


def test_whoever_comes_first_the_statistics_are_the_same_to_the_last_bit(tmp_path: Path) -> None:
    files = set()
    for number, order in enumerate(itertools.permutations(FLEET)):
        gathering = Gathering(tmp_path / str(number))
        gathering.start()
        gathering.all_check_in()
        for agent in order:
            gathering.gives(agent)
        files.add((tmp_path / str(number) / "statistics.json").read_bytes())

    assert len(files) == 1


def test_what_was_accepted_counts_after_a_restart_of_the_gateway(gathering: Gathering) -> None:
    gathering.start()
    gathering.all_check_in()
    gathering.gives("pi-0")

    runner = gathering.start()
    assert runner.state.phase is Phase.TRAINING
    for agent in FLEET[1:]:
        gathering.tell(agent, CheckIn(examples=len(DATA[agent])))
        gathering.gives(agent)

    assert runner.is_done
    expect(gathering.normalisation, FLEET)


def test_an_agent_that_submits_again_counts_once(gathering: Gathering) -> None:
    gathering.start()
    gathering.all_check_in()
    for agent in ("pi-0", "pi-0", *FLEET):
        gathering.gives(agent)

    expect(gathering.normalisation, FLEET)


def test_a_device_with_few_examples_gives_none_and_is_told(
    gathering: Gathering, caplog: pytest.LogCaptureFixture
) -> None:
    runner = gathering.start()
    gathering.all_check_in()
    gathering.gives("pi-0", raw_columns(19, 5))
    for agent in FLEET[1:]:
        gathering.gives(agent)

    assert "this device trains on 19 examples and gives no statistics of fewer than 20" in caplog.text
    assert runner.is_done
    expect(gathering.normalisation, FLEET[1:])


def test_examples_that_a_device_holds_out_are_in_no_statistics(tmp_path: Path) -> None:
    gathering = Gathering(tmp_path / "run", hold_out=0.5)
    gathering.start()
    gathering.all_check_in()

    result = gathering.statistics_of("pi-0", DATA["pi-0"])

    assert result.submit.examples == 20
    statistics = unpack_statistics(result.update.blob)
    assert isinstance(statistics.inputs, Moments)
    assert statistics.inputs.counts == (20, 20, 20)


def test_missing_values_are_in_no_statistics(gathering: Gathering) -> None:
    gathering.start()
    gathering.all_check_in()
    data = raw_columns(40, 0)
    data.x[3:9, 0] = np.nan

    statistics = unpack_statistics(gathering.statistics_of("pi-0", data).update.blob)

    assert isinstance(statistics.inputs, Moments)
    assert statistics.inputs.counts == (34, 40, 40)


def test_without_any_statistics_people_are_told_what_to_do(gathering: Gathering) -> None:
    gathering.start()
    gathering.all_check_in()
    for agent in FLEET[:2]:
        gathering.gives(agent, raw_columns(10, 5))

    with pytest.raises(TrainingError, match="no device has the 20 examples of which it gives statistics; give them in"):
        gathering.gives("pi-2", raw_columns(10, 5))


@pytest.mark.parametrize(
    ("blob", "says"),
    [
        (b"\xc1", "its statistics: "),
        (
            pack_statistics(DeviceStatistics(Moments((40,) * 3, (float("nan"),) * 3, (1.0,) * 3))),
            "its statistics: .*means",
        ),
        (pack_statistics(DeviceStatistics(Moments((40,) * 3, (0.0,) * 3, (-1.0,) * 3))), "its statistics: .*squares"),
        (pack_statistics(DeviceStatistics(Moments((40,), (0.0,), (1.0,)))), "of other columns than the task's 3"),
        (pack_statistics(DeviceStatistics(Moments((41,) * 3, (0.0,) * 3, (1.0,) * 3))), "more values than its 40"),
        (pack_statistics(DeviceStatistics(Moments((40,) * 3, (0.0,) * 3, (1.0,) * 3))), "no statistics of targets"),
    ],
)
def test_malformed_statistics_are_refused_in_words_and_the_agent_may_try_again(
    gathering: Gathering, blob: bytes, says: str
) -> None:
    runner = gathering.start()
    gathering.all_check_in()

    gathering.gives("pi-0", blob=blob)

    rejected = gathering.heard("pi-0", Rejected)[-1]
    assert isinstance(rejected, Rejected)
    assert rejected.reason is Reason.INVALID
    assert re.search(says, rejected.detail)
    for agent in FLEET:
        gathering.gives(agent)
    assert runner.is_done
    expect(gathering.normalisation, FLEET)


def test_who_claims_many_examples_counts_as_few(gathering: Gathering, caplog: pytest.LogCaptureFixture) -> None:
    gathering.start()
    gathering.all_check_in(lambda agent: 1_000_000 if agent == "pi-2" else 100)
    huge = DeviceStatistics(*[Moments((10**6,) * count, (0.0,) * count, (0.0,) * count) for count in (3, 1)])
    gathering.gives("pi-2", blob=pack_statistics(huge), examples=1_000_000)
    for agent in FLEET[:2]:
        gathering.gives(agent)

    assert "the statistics of pi-2 claim 1000000 examples and count as 1000" in caplog.text
    inputs, _ = gathering.normalisation
    # pi-1 checked in with 100 of its 200
    total = sum(weight * DATA[agent].x[:, 1].mean(dtype=np.float64) for agent, weight in (("pi-0", 40), ("pi-1", 100)))
    assert inputs.mean[1] == pytest.approx(total / (40 + 100 + 1000), rel=1e-6)


def test_agents_that_cannot_are_not_waited_for(tmp_path: Path) -> None:
    gathering = Gathering(tmp_path / "run")
    gathering.plan = replace(gathering.plan, quorum=2)
    runner = gathering.start()
    gathering.all_check_in()
    gathering.tell("pi-1", Failed(run=gathering.plan.run, round=0, why="it has no column 'outside'"))
    for agent in ("pi-0", "pi-2"):
        gathering.gives(agent)

    assert runner.is_done
    expect(gathering.normalisation, ("pi-0", "pi-2"))


def test_where_nobody_can_people_are_told_what_to_do(gathering: Gathering) -> None:
    gathering.start()
    gathering.all_check_in()
    for agent in FLEET[:2]:
        gathering.tell(agent, Failed(run=gathering.plan.run, round=0, why="it has no column 'outside'"))

    with pytest.raises(
        TrainingError, match=r"3 agents cannot give the statistics that the task lacks, .*give the stat"
    ):
        gathering.tell("pi-2", Failed(run=gathering.plan.run, round=0, why="it has no column 'outside'"))


def test_all_agents_that_the_federation_names_give_theirs() -> None:
    plan = gathering_plan(replace(PLAN, cohort=2, fleet=frozenset(FLEET)))

    assert (plan.cohort, plan.rounds) == (3, 1)


def test_statistics_of_another_task_are_not_taken(gathering: Gathering) -> None:
    gathering.start()
    gathering.all_check_in()
    for agent in FLEET:
        gathering.gives(agent)

    with pytest.raises(StorageError, match=r"statistics\.json is of another task; name an empty state directory"):
        load_pooled(gathering.run, bytes(32))


def test_damaged_statistics_are_named(gathering: Gathering) -> None:
    gathering.run.write("statistics.json", b'{"task": ')

    with pytest.raises(StorageError, match=r"statistics\.json: .*; restore it, or name an empty state directory"):
        load_pooled(gathering.run, DIGEST)


def test_statistics_that_a_crash_left_after_they_were_pooled_are_deleted(gathering: Gathering) -> None:
    gathering.given.write("pi-0.statistics", b"")

    forget_given(gathering.given)

    assert not gathering.given.names()


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_who_looks_at_examples_before_there_is_a_run_normalises_them_by_their_own_statistics(tmp_path: Path) -> None:
    write_table(tmp_path / "rooms.csv", 50, 1)

    data = load_to_look(tmp_path / "rooms.csv", BUNDLE)

    for values in (data.x, data.y):
        assert abs(values.mean(axis=0)).max() < 1e-3
        assert abs(values.std(axis=0) - 1).max() < 1e-3
