"""Agents that come back after some rounds: they are brought to the same model, with as few bytes as can be."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.deltas import MOST_DELTAS, keep_delta, replays
from aggregator.runner import AggregatorRunner
from aggregator.sub_gateway.given import given_round
from edge_agent.held_model import NONE_HELD, HeldModel, UnusableBase
from edge_agent.round_model import round_model
from fedprune.model.tensors import weights_digest
from fedprune.pruning.policy import MaskPolicy
from fedprune.system.disk import Directory
from fedprune.task.checkpoints import load_checkpoint
from fedprune.wire.messages import Assignment, CheckIn
from fedprune.wire.transfer import content_of
from tests.gateways import TASK_PLAN, Site, fetch, tell, trained
from tests.samples import changed, chunks
from tests.simulation.world import make_bundle

ROUNDS = 24
BUNDLE = make_bundle(MaskPolicy.SHARED, inputs=1500)
PLAN = replace(
    TASK_PLAN,
    task=content_of(BUNDLE.blob),
    rounds=ROUNDS + 2,
    cohort=1,
    quorum=1,
    model_codec="fp16 + mask | topk(0.01) | ternary | history",
    seeded=True,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which pi-0 did all rounds but the last; `held-N` is what it held after version N."""
    path = tmp_path_factory.mktemp("run")
    site = Site(path / "gateway", BUNDLE)
    runner = site.start(PLAN)
    runner.connect()
    held = HeldModel(Directory(path / "held"))
    tell(runner, "pi-0", CheckIn(examples=7))
    for version in range(ROUNDS):
        result = trained(site, runner, "pi-0", held=held)
        tell(runner, "pi-0", result.submit, *chunks(result.update.blob))
        shutil.copytree(path / "held", path / f"held-{version}")
    assert runner.state.round == ROUNDS
    site.book.close()
    return path


@pytest.fixture
def site(run: Path, tmp_path: Path) -> Iterator[Site]:
    """The gateway, started again where a cohort for the last round is still to be found."""
    shutil.copytree(run / "gateway", tmp_path / "gateway")
    site = Site(tmp_path / "gateway", BUNDLE)
    yield site
    site.book.close()


def holding(run: Path, tmp_path: Path, version: int) -> HeldModel:
    """What the agent held after a version, on a disk of its own."""
    return HeldModel(Directory(shutil.copytree(run / f"held-{version}", tmp_path / f"held-{version}")))


def returns(site: Site, version: int, *, wants_whole: bool = False) -> tuple[AggregatorRunner, Assignment]:
    """An agent that holds `version` checks in at a gateway that was started again, without the member that it had."""
    runner = site.start(replace(PLAN, incarnation=2))
    runner.connect()
    member = runner.state.cohort.members["pi-0"]
    assert member.base == -1, "the book does not say what an agent holds"
    tell(runner, "pi-0", CheckIn(examples=7, run=PLAN.run, version=version, wants_whole=wants_whole))
    return runner, site.assignment_of("pi-0")


@pytest.mark.parametrize("absent", [1, 5, 20])
def test_who_was_absent_gets_the_same_model_for_fewer_bytes_than_a_whole_one(
    run: Path, site: Site, tmp_path: Path, absent: int
) -> None:
    runner, assignment = returns(site, ROUNDS - absent)
    held = holding(run, tmp_path, ROUNDS - absent)
    assert assignment.model is not None
    assert assignment.base == ROUNDS - absent
    assert assignment.model.size < runner.state.model.content.size

    found = round_model(fetch(site, runner, assignment.model), assignment, BUNDLE, held)
    weights, mask = found.weights, found.mask

    assert bytes.fromhex(weights_digest(weights)) == runner.state.model.weights_digest
    present = load_checkpoint(site.checkpoints, ROUNDS).mask
    assert {name: kept.tolist() for name, kept in mask.items()} == {n: kept.tolist() for n, kept in present.items()}
    assert held.read(PLAN.run) == (ROUNDS, whole_of(runner)), "what the last deltas sent, too"


def whole_of(runner: AggregatorRunner) -> bytes:
    """The present model as the gateway sends it whole."""
    return runner._model.blob


def test_who_came_by_a_whole_model_follows_deltas_from_then_on(site: Site, tmp_path: Path) -> None:
    """It knows what the deltas before sent, by which the next one is coded, and so does the gateway that was started
    again."""
    runner, assignment = returns(site, -1, wants_whole=True)
    assert assignment.base == -1
    held, whole = HeldModel(Directory(tmp_path / "new")), whole_of(runner)
    result = trained(site, runner, "pi-0", held=held)
    assert held.read(PLAN.run) == (ROUNDS, whole)

    tell(runner, "pi-0", result.submit, *chunks(result.update.blob))

    replay = replays(site.checkpoints, ROUNDS + 1, len(whole_of(runner)))[ROUNDS]
    model = runner.state.model
    following = changed(assignment, round=ROUNDS + 1, base=ROUNDS, weights_digest=model.weights_digest)
    round_model(replay, following, BUNDLE, held)
    assert held.read(PLAN.run) == (ROUNDS + 1, whole_of(runner))


@pytest.mark.parametrize("absent", [0, 5])
def test_a_gateway_below_gives_its_agents_the_same_bytes_however_it_came_there(
    run: Path, site: Site, tmp_path: Path, absent: int
) -> None:
    """By deltas, or by the whole model where it wants that."""
    runner, assignment = returns(site, ROUNDS - absent, wants_whole=not absent)
    held = holding(run, tmp_path, ROUNDS - max(1, absent))
    assert assignment.model is not None

    found = given_round(assignment, fetch(site, runner, assignment.model), BUNDLE, held, None, 100.0)

    assert found.model.blob == whole_of(runner)


def test_who_holds_nothing_starts_from_the_seed(site: Site, tmp_path: Path) -> None:
    runner, assignment = returns(site, -1)
    assert assignment.base == 0
    assert assignment.model == runner.state.model.replays[0]

    holds_nothing = HeldModel(Directory(tmp_path / "new"))
    weights = round_model(fetch(site, runner, assignment.model), assignment, BUNDLE, holds_nothing).weights

    assert bytes.fromhex(weights_digest(weights)) == runner.state.model.weights_digest


def test_who_holds_the_present_model_downloads_nothing(run: Path, site: Site, tmp_path: Path) -> None:
    runner, assignment = returns(site, ROUNDS - 1)
    held = holding(run, tmp_path, ROUNDS - 1)
    assert assignment.model is not None
    round_model(fetch(site, runner, assignment.model), assignment, BUNDLE, held)
    tell(runner, "pi-0", CheckIn(examples=7, run=PLAN.run, version=held.version[1]))

    again = site.assignment_of("pi-0")

    assert (again.model, again.base) == (None, ROUNDS)
    weights = round_model(b"", again, BUNDLE, held).weights
    assert bytes.fromhex(weights_digest(weights)) == runner.state.model.weights_digest


def test_what_does_not_lead_to_the_model_is_forgotten_and_the_whole_one_asked_for(
    run: Path, site: Site, tmp_path: Path
) -> None:
    """The agent says that it holds one version, and holds another: its disk was put back to an older state."""
    runner, assignment = returns(site, ROUNDS - 1)
    assert assignment.model is not None
    held = holding(run, tmp_path, ROUNDS - 5)
    with pytest.raises(UnusableBase, match=f"version {ROUNDS - 1} of the model is not held here"):
        round_model(fetch(site, runner, assignment.model), assignment, BUNDLE, held)
    assert held.version == NONE_HELD

    tell(runner, "pi-0", CheckIn(examples=7, wants_whole=True))

    whole = site.assignment_of("pi-0")
    assert (whole.model, whole.base) == (runner.state.model.content, -1)
    weights = round_model(fetch(site, runner, runner.state.model.content), whole, BUNDLE, held).weights
    assert bytes.fromhex(weights_digest(weights)) == runner.state.model.weights_digest
    assert held.version == (PLAN.run, ROUNDS)


def test_a_newer_version_than_was_said_skips_what_it_has(run: Path, site: Site, tmp_path: Path) -> None:
    """A training that was stopped leaves a model that the gateway was not told of."""
    runner, assignment = returns(site, ROUNDS - 9)
    assert assignment.model is not None
    replay = fetch(site, runner, assignment.model)

    weights = round_model(replay, assignment, BUNDLE, holding(run, tmp_path, ROUNDS - 3)).weights

    assert bytes.fromhex(weights_digest(weights)) == runner.state.model.weights_digest


@pytest.mark.parametrize("spoil", [lambda replay: replay[:-1], lambda replay: replay + b"\0", lambda _: b""])
def test_a_replay_that_was_tampered_with_is_refused(
    run: Path, site: Site, tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    runner, assignment = returns(site, ROUNDS - 2)
    assert assignment.model is not None
    held = holding(run, tmp_path, ROUNDS - 2)

    with pytest.raises(UnusableBase):
        round_model(spoil(fetch(site, runner, assignment.model)), assignment, BUNDLE, held)


def test_a_delta_that_is_gone_costs_a_whole_model(site: Site) -> None:
    (site.path / "checkpoints" / f"{ROUNDS - 1:06d}.delta").unlink()

    runner, assignment = returns(site, ROUNDS - 3)

    assert (assignment.model, assignment.base) == (runner.state.model.content, -1)


def test_who_asks_for_the_whole_model_gets_it(site: Site) -> None:
    runner, assignment = returns(site, ROUNDS - 1, wants_whole=True)

    assert (assignment.model, assignment.base) == (runner.state.model.content, -1)


def test_one_event_is_told_and_counted_once_however_often_the_agent_says_it(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runner, _ = returns(site, ROUNDS - 1)
    for _ in range(3):
        tell(runner, "pi-0", CheckIn(examples=7, wants_whole=True))

    result = trained(site, runner, "pi-0", held=HeldModel(Directory(tmp_path / "held")))
    tell(runner, "pi-0", result.submit, *chunks(result.update.blob))

    assert site.records[-1].led_astray == 1
    assert [line for line in caplog.messages if "led to another model" in line] == [
        "what pi-0 held led to another model; it gets the whole one"
    ]


def test_only_so_many_deltas_are_kept_and_no_replay_is_as_large_as_the_model(tmp_path: Path) -> None:
    disk = Directory(tmp_path)
    for version in range(1, MOST_DELTAS + 11):
        keep_delta(disk, version, b"d" * 10, 10_000)
    last = MOST_DELTAS + 10

    assert len(disk.names()) == MOST_DELTAS
    assert sorted(replays(disk, last, 10_000)) == list(range(last - MOST_DELTAS, last))
    assert sorted(replays(disk, last, 40)) == [last - 2, last - 1]
    keep_delta(disk, last, None, 10_000)
    assert replays(disk, last, 10_000) == {}


def test_a_delta_of_which_no_replay_would_pay_is_not_kept(tmp_path: Path) -> None:
    disk, whole = Directory(tmp_path), 100
    for size in (whole - 1, whole, whole + 1):
        keep_delta(disk, 1, b"d", whole)
        keep_delta(disk, 1, b"d" * size, whole)

        assert disk.names() == []
    keep_delta(disk, 1, b"d" * (whole // 2), whole)
    assert list(replays(disk, 1, whole)) == [0]


def test_a_held_model_that_is_damaged_is_forgotten(tmp_path: Path) -> None:
    disk = Directory(tmp_path)
    held = HeldModel(disk)
    held.keep("run", 3, b"model")
    assert (held.version, held.read("run"), held.read("another")) == (("run", 3), (3, b"model"), None)

    blob = disk.read("held.model")
    assert blob is not None
    for damaged in (blob[:-1], b"", b"\xff" + blob, blob.replace(b'"format":1', b'"format":9')):
        disk.write("held.model", damaged)
        assert HeldModel(disk).version == NONE_HELD
        assert disk.names() == []


def test_an_assignment_that_names_no_codec_of_this_version_is_refused(run: Path, site: Site, tmp_path: Path) -> None:
    runner, assignment = returns(site, ROUNDS - 1)
    assert assignment.model is not None
    replay = fetch(site, runner, assignment.model)
    for codec in ("fp16", "fp16 + mask | magic"):
        held = holding(run, tmp_path / codec, ROUNDS - 1)
        with pytest.raises(UnusableBase):
            round_model(replay, changed(assignment, model_codec=codec), BUNDLE, held)
