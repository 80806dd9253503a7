"""Sub-gateways' rounds: the parent comes to the bits of one gateway, and who is left out learns of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from aggregator.book import Book
from aggregator.folding import Folding
from aggregator.global_model import restored_model
from aggregator.merging import Aggregate
from aggregator.part_runner import GivenRound, PartRunner
from aggregator.partial_sum import encode_partial_sum
from aggregator.round_answers import terms
from aggregator.round_state import Phase
from aggregator.run_store import RunStore
from aggregator.runner import AggregatorRunner
from aggregator.servable import check_servable
from aggregator.settings import AS_USUAL, Aggregation, FederationSettings, Rounds
from aggregator.update_sizes import most_part_bytes
from fedprune.codecs import Values, parse_codec
from fedprune.errors import ConfigurationError, TrainingError
from fedprune.model.tensors import weights_digest
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.regrowth import Regrowth
from fedprune.system.disk import Directory
from fedprune.task.bundle import Bundle
from fedprune.task.checkpoints import load_checkpoint
from fedprune.wire.messages import (
    CheckIn,
    Manifest,
    Reason,
    Rejected,
    Submit,
    decode,
)
from fedprune.wire.transfer import content_of
from tests.gateways import BUNDLE, TASK_PLAN, TOPICS, Site, begin, submit_update, tell
from tests.recorder import Recorder
from tests.samples import chunks
from tests.shrinking import SEED, Shrinking, bundle_of
from tests.simulation.stand_ins import make_bundle

AGENTS = tuple(f"pi-{number}" for number in range(6))
NORTH, SOUTH = AGENTS[:3], AGENTS[3:]
FLAT = replace(TASK_PLAN, rounds=4, cohort=6, quorum=6)
PARENT = replace(
    TASK_PLAN,
    rounds=4,
    cohort=2,
    quorum=2,
    sub_gateways=frozenset({"north", "south"}),
    max_part_bytes=most_part_bytes(BUNDLE.task),
)
BELOW = replace(TASK_PLAN, rounds=2**31 - 1, cohort=3, quorum=3)


class Below(Site):
    """A sub-gateway's directory, and the parts that it has handed over."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.parts: list[tuple[Submit, bytes]] = []
        self.declined: list[tuple[str, int, TrainingError]] = []

    def takes(
        self, given: GivenRound, codec: str = BELOW.codec, sub_gateways: frozenset[str] = frozenset()
    ) -> PartRunner:
        """A process that starts with a round."""
        directory = Directory(self.path)
        plan = replace(BELOW, codec=codec, sub_gateways=sub_gateways, max_part_bytes=PARENT.max_part_bytes)
        book = self.book = Book.open(self.path / "book.sqlite")
        run, incarnation = book.start(plan.run, plan.task.digest, {})
        plan = replace(plan, run=run, incarnation=incarnation, ticket_key=TASK_PLAN.ticket_key)
        self.link, self._terms = Recorder(), terms(plan)
        self.updates, self.checkpoints = Directory(directory.path / "updates"), Directory(directory.path / "kept")
        runner = PartRunner(
            plan,
            self.bundle,
            TOPICS,
            self.link,
            RunStore(book, self.checkpoints, self.updates),
            given,
            hand_over=lambda submit, part: self.parts.append((submit, part)),
            decline=lambda *declined: self.declined.append(declined),
            report=self.records.append,
            clock=lambda: 0.0,
        )
        runner.connect()
        return runner


def given(parent: Site, version: int, counted: int | None = None) -> GivenRound:
    """The round of a version of the parent's model."""
    checkpoint = load_checkpoint(parent.checkpoints, version)
    return GivenRound(restored_model(checkpoint, BUNDLE.task, Values.FP16), {}, 1000.0, counted)


def digest(site: Site, version: int) -> str:
    return weights_digest(load_checkpoint(site.checkpoints, version).exact)


def check_in(runner: PartRunner, agents: tuple[str, ...]) -> None:
    for agent in agents:
        tell(runner, agent, CheckIn(examples=7))  # type: ignore[arg-type]
    assert runner.state.phase is Phase.TRAINING


def submit_all(site: Site, runner: PartRunner | AggregatorRunner, agents: tuple[str, ...], huge: str = "") -> None:
    for agent in agents:
        submit_update(site, runner, agent, 1e4 if agent == huge else 1.0)  # type: ignore[arg-type]


def flat(path: Path, huge: str = "", rounds: int = 1) -> Site:
    """One gateway that folds all updates itself."""
    site = Site(path)
    runner = begin(site, AGENTS, plan=FLAT)
    for _ in range(rounds):
        submit_all(site, runner, AGENTS, huge)
    return site


class Tree:
    """A parent with two gateways below it."""

    def __init__(self, path: Path) -> None:
        self.site = Site(path / "parent")
        self.parent = begin(self.site, ("north", "south"), plan=PARENT)
        self.below = {"north": Below(path / "north"), "south": Below(path / "south")}
        self.runners: dict[str, PartRunner] = {}

    def round(self, version: int, huge: str = "", counted: int | None = None) -> None:
        """A whole round, up to the parts, which nobody has told the parent of yet."""
        for name, agents in (("north", NORTH), ("south", SOUTH)):
            site = self.below[name]
            if name in self.runners:
                self.runners[name].give(given(self.site, version, counted))
            else:
                self.runners[name] = site.takes(given(self.site, version, counted))
                check_in(self.runners[name], agents)
            submit_all(site, self.runners[name], agents, huge)

    def hand_over(self) -> None:
        for name, site in self.below.items():
            submit, part = site.parts[-1]
            tell(self.parent, name, msgspec.structs.replace(submit, run=PARENT.run), *chunks(part))


def test_partial_sums_of_some_rounds_come_to_the_bits_of_one_gateway(tmp_path: Path) -> None:
    expected = flat(tmp_path / "flat", rounds=2)

    tree = Tree(tmp_path)
    tree.round(0)
    tree.hand_over()
    tree.round(1, counted=0)
    tree.hand_over()

    assert [digest(tree.site, version) for version in (1, 2)] == [digest(expected, version) for version in (1, 2)]
    assert [(record.agents, record.left_out) for record in tree.site.records] == [(2, 0)] * 2
    assert [(record.round, record.agents) for record in tree.below["north"].records] == [(0, 3), (1, 3)]
    assert tree.below["north"].parts[0][0].examples == sum(
        update.weight for update in tree.below["north"].book.accepted(0).values()
    )


def test_an_outlier_is_left_out_below_and_told_with_its_next_work(tmp_path: Path) -> None:
    expected = flat(tmp_path / "flat", huge="pi-1")

    tree = Tree(tmp_path)
    tree.round(0, huge="pi-1")
    tree.hand_over()
    tree.runners["north"].give(given(tree.site, 1, counted=0))

    assert expected.records[0].outliers == tree.below["north"].records[0].outliers == ("pi-1",)
    assert digest(tree.site, 1) == digest(expected, 1)
    left_out = {agent: tree.below["north"].assignment_of(agent).left_out for agent in NORTH}
    assert {agent for agent, why in left_out.items() if why is not None} == {"pi-1"}


def test_agents_whose_part_does_not_count_are_told_so_also_after_a_restart(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.round(0)
    tree.hand_over()
    tree.below["north"].book.close()

    runner = tree.below["north"].takes(given(tree.site, 1, counted=None))
    check_in(runner, NORTH)

    for agent in NORTH:
        left_out = tree.below["north"].assignment_of(agent).left_out
        assert left_out is not None
        assert (left_out.round, left_out.why) == (0, "the gateway above did without this round's updates of this one")


def test_a_round_that_the_parent_ends_meanwhile_is_left_for_its_next_one(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.round(0)
    tree.hand_over()
    late = Below(tmp_path / "late")
    runner = late.takes(given(tree.site, 0))
    check_in(runner, NORTH)
    submit_all(late, runner, NORTH[:2])

    runner.give(given(tree.site, 1))
    check_in(runner, NORTH)
    submit_all(late, runner, NORTH)

    assert [submit.round for submit, _ in late.parts] == [1]
    assert {agent for agent, (round_, _) in late.book.left_out().items() if round_ == 0} == set(NORTH[:2])


def test_a_part_that_is_asked_for_again_is_made_of_the_same_bits_also_after_a_restart(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.round(0)
    site = tree.below["north"]

    tree.runners["north"].give(given(tree.site, 0))
    site.book.close()
    site.takes(given(tree.site, 0))

    first, *again = site.parts
    assert again == [first, first]


def test_a_sub_gateway_that_is_killed_in_a_round_goes_on_with_what_it_had_accepted(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.round(0)
    expected = tree.below["north"].parts[0][1]

    killed = Below(tmp_path / "killed")
    runner = killed.takes(given(tree.site, 0))
    check_in(runner, NORTH)
    submit_all(killed, runner, NORTH[:2])
    killed.book.close()
    runner = killed.takes(given(tree.site, 0))
    tell(runner, NORTH[2], CheckIn(examples=7))  # type: ignore[arg-type]
    submit_all(killed, runner, NORTH[2:])

    assert [part for _, part in killed.parts] == [expected]


def test_when_the_parent_is_done_so_is_the_sub_gateway(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.round(0)
    runner, link = tree.runners["north"], tree.below["north"].link
    runner.finish()

    assert runner.is_done
    assert [decode(Manifest, each).done for each in link.on(TOPICS.round) if each][-1]


# The parent


def rejected(site: Site, agent: str) -> Rejected:
    return decode(Rejected, site.link.on(TOPICS.down(agent, "rejected"))[-1])


def test_a_part_from_an_agent_that_is_not_named_is_refused_with_what_mends_it(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.round(0)
    site = Site(tmp_path / "other")
    runner = begin(site, ("north", "south"), plan=replace(PARENT, sub_gateways=frozenset()))
    submit, part = tree.below["north"].parts[0]
    tell(runner, "north", msgspec.structs.replace(submit, run=PARENT.run), *chunks(part))

    assert rejected(site, "north").reason is Reason.INVALID
    assert "name it in rounds.sub_gateways" in rejected(site, "north").detail


@pytest.mark.parametrize("what", ["its examples", "its end"])
def test_a_part_that_cannot_be_is_refused(tmp_path: Path, what: str) -> None:
    tree = Tree(tmp_path)
    tree.round(0)
    submit, part = tree.below["north"].parts[0]
    if what == "its examples":
        submit = msgspec.structs.replace(submit, examples=submit.examples + 1)
    else:
        part = part[:-1]
    submit = msgspec.structs.replace(submit, run=PARENT.run, update=content_of(part))
    tell(tree.parent, "north", submit, *chunks(part))

    assert rejected(tree.site, "north").reason is Reason.INVALID
    assert tree.parent.state.cohort.accepted == 0


def test_a_part_that_is_an_outlier_is_left_out_whole(tmp_path: Path) -> None:
    """The parts' norms tell; what is left are the bits of the others."""
    plan = replace(PARENT, cohort=3, quorum=3, sub_gateways=PARENT.sub_gateways | {"east"})
    tree = Tree(tmp_path)
    tree.round(0)
    east = Below(tmp_path / "east")
    runner = east.takes(given(tree.site, 0))
    check_in(runner, ("pi-6", "pi-7", "pi-8"))
    for agent in ("pi-6", "pi-7", "pi-8"):
        submit_update(east, runner, agent, 1e3)  # type: ignore[arg-type]
    tree.hand_over()

    wider = Site(tmp_path / "wider")
    parent = begin(wider, ("north", "south", "east"), plan=plan)
    for name, site in (("east", east), *tree.below.items()):
        submit, part = site.parts[0]
        tell(parent, name, msgspec.structs.replace(submit, run=plan.run), *chunks(part))

    assert wider.records[0].outliers == ("east",)
    assert digest(wider, 1) == digest(tree.site, 1)


def bundles() -> dict[str, Bundle]:
    return {
        "share a mask": make_bundle(MaskPolicy.OWN),
        "without regrowth": make_bundle(
            MaskPolicy.SHARED, regrowth=Regrowth(fraction=0.1, every_rounds=1, until_round=2)
        ),
        "FedNova": BUNDLE,
    }


@pytest.mark.parametrize("why", ["share a mask", "without regrowth", "FedNova"])
def test_what_needs_single_updates_is_refused_where_there_are_sub_gateways(why: str) -> None:
    settings = FederationSettings(
        task="task",
        state="run",
        rounds=Rounds(count=2, sub_gateways=("north",)),
        aggregation=Aggregation(rule="fednova" if why == "FedNova" else "fedavg"),
    )
    with pytest.raises(ConfigurationError, match=f"rounds.sub_gateways: .*{why}"):
        check_servable(settings, bundles()[why])


def test_parts_of_a_network_that_has_lost_units_come_to_the_same_bits(tmp_path: Path) -> None:
    site = Shrinking(tmp_path, bundle_of(), agents=4)
    site.run(2)
    assert not site.form.is_whole
    model, bundle, codec = site.model.checkpoint, site.bundle, parse_codec(site.codec)
    updates = {agent: site.train(agent) for agent in site.names}

    def folded(agents: Sequence[str]) -> Aggregate:
        folding = Folding(bundle.task, bundle.network, SEED, codec, AS_USUAL)
        for agent in agents:
            folding.take(updates[agent].update.blob, agent, model, updates[agent].submit.examples)
        return folding.folded(model).sums

    root = Folding(bundle.task, bundle.network, SEED, codec, AS_USUAL, frozenset({"north", "south"}))
    for name, agents in (("north", site.names[:1]), ("south", site.names[1:])):
        sums = folded(agents)
        part = encode_partial_sum(sums, bytes.fromhex(weights_digest(model.weights)))
        root.take(part, name, model, sums.examples)

    whole = folded(site.names).result(model.exact)
    assert weights_digest(root.folded(model).sums.result(model.exact).weights) == weights_digest(whole.weights)
