"""What a part says of its agents, together: what they weigh and what they evaluated, however many they are."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.agents_evaluation import check_evaluated, evaluated_together
from aggregator.book import AcceptedUpdate
from aggregator.merging import Aggregate
from aggregator.part_runner import PartRunner
from aggregator.part_submit import submitted_part
from aggregator.partial_sum import encode_partial_sum, tallies_of
from aggregator.runner import AggregatorRunner
from aggregator.update_sizes import most_part_bytes
from fedprune.errors import ProtocolError
from fedprune.model.losses import Loss
from fedprune.model.metrics import Metric
from fedprune.model.tensors import weights_digest
from fedprune.task.checkpoints import load_checkpoint
from fedprune.task.outputs import Output
from fedprune.task.tallies import MOST_SUMMED, most_tallies_bytes, pack_unpacked
from fedprune.wire.messages import MAX_TALLIES_BYTES, CheckIn, Evaluated, Rejected, Submit, decode, encode
from fedprune.wire.transfer import content_of
from tests.gateways import BUNDLE, TOPICS, Site, submit_update, tell
from tests.samples import chunks
from tests.unit.test_sub_gateway_rounds import (
    AGENTS,
    FLAT,
    NORTH,
    PARENT,
    SOUTH,
    Below,
    Tree,
    check_in,
    digest,
    given,
)
from tests.unit.test_tallies import task_of


def submit_with(site: Site, runner: PartRunner | AggregatorRunner, agents: Sequence[str], examples: int) -> None:
    """Each agent has so many examples, and has evaluated the model on half of them."""
    for number, agent in enumerate(agents):
        right = Evaluated(
            examples=examples // 2,
            loss=float(number),
            tallies=pack_unpacked({"accuracy": np.array([examples // 4 + number, examples // 2])}),
        )
        submit_update(site, runner, agent, examples=examples, evaluated=right)  # type: ignore[arg-type]


@pytest.mark.parametrize("examples", [100, 2**31 - 1], ids=["few", "more than 2^31 together"])
def test_what_a_part_weighs_and_what_its_agents_evaluated_arrives_whole(tmp_path: Path, examples: int) -> None:
    expected = Site(tmp_path / "flat")
    runner = expected.start(FLAT, agents_evaluate=True)
    runner.connect()
    check_in_with(runner, AGENTS, examples)
    submit_with(expected, runner, AGENTS[:3], examples)
    submit_with(expected, runner, AGENTS[3:], examples)

    site = Site(tmp_path / "parent")
    parent = site.start(PARENT, agents_evaluate=True)
    parent.connect()
    check_in_with(parent, ("north", "south"), 1)
    for name, agents in (("north", NORTH), ("south", SOUTH)):
        below = Below(tmp_path / name)
        runner_below = below.takes(given(site, 0))
        check_in_with(runner_below, agents, examples)
        submit_with(below, runner_below, agents, examples)
        submit, part = below.parts[0]
        assert submit.examples == 3 * examples
        tell(parent, name, msgspec.structs.replace(submit, run=PARENT.run), *chunks(part))

    assert digest(site, 1) == digest(expected, 1)
    (record,), (flat_record,) = site.records, expected.records
    assert (record.loss, record.metrics) == (flat_record.loss, flat_record.metrics)


def forged_by_north(tmp_path: Path, tallies: bytes) -> tuple[Site, AggregatorRunner, Submit, bytes]:
    """A parent that waits for the part of its sub-gateway north, what that would say of it, and the part with other
    tallies."""
    site, below = Site(tmp_path / "parent"), Below(tmp_path / "north")
    parent = site.start(PARENT, agents_evaluate=True)
    parent.connect()
    check_in_with(parent, ("north", "south"), 1)
    runner = below.takes(given(site, 0))
    check_in_with(runner, NORTH, 100)
    submit_with(below, runner, NORTH, 100)
    submit, part = below.parts[0]
    size = int.from_bytes(part[12:16], "little")
    return site, parent, submit, part[:12] + len(tallies).to_bytes(4, "little") + tallies + part[16 + size :]


def test_what_a_part_has_in_the_place_of_tallies_is_not_kept_without_a_loss(tmp_path: Path) -> None:
    """It may be as long as a part, and nobody would read it."""
    site, parent, submit, junk = forged_by_north(tmp_path, bytes(1000))
    changed = {"run": PARENT.run, "update": content_of(junk), "evaluated": Evaluated(examples=1)}
    tell(parent, "north", msgspec.structs.replace(submit, **changed), *chunks(junk))

    assert site.book.accepted(0)["north"].tallies == b""


def test_tallies_that_would_leave_no_room_for_those_of_others_are_refused(tmp_path: Path) -> None:
    examples = 2**48
    tallies = pack_unpacked({"accuracy": np.array([examples // 2, examples])})
    site, parent, submit, forged = forged_by_north(tmp_path, tallies)
    claims = {"examples": examples, "evaluated": Evaluated(examples=examples, loss=1.0)}
    tell(
        parent,
        "north",
        msgspec.structs.replace(submit, run=PARENT.run, update=content_of(forged), **claims),
        *chunks(forged),
    )

    rejected = decode(Rejected, site.link.on(TOPICS.down("north", "rejected"))[-1])
    assert rejected.detail == (
        f"its evaluation counts more than {2**44}, or sums up to more than 3.8e+94: sums of all have no room for it"
    )


def test_what_a_part_has_no_room_for_is_not_told_above() -> None:
    task = BUNDLE.task
    half = 2**43
    updates = {
        f"pi-{number}": booked(pack_unpacked({"accuracy": np.array([1, half - 1])}), 2 * (half - 1))
        for number in range(3)
    }

    told = evaluated_together(updates, task)

    assert told is not None
    assert told.examples == 2 * (half - 1)
    check_evaluated(part_that_says(told), task)


def test_what_a_part_has_no_room_for_is_not_told_above_of_sums_either() -> None:
    task, largest = task_of(Loss.MEAN_SQUARED_ERROR, Metric.MEAN_ABSOLUTE_ERROR), 1e100 / MOST_SUMMED
    (name,) = task.metrics
    updates = {f"pi-{number}": booked(pack_unpacked({name: np.array([0.6 * largest, 50.0])}), 100) for number in (0, 1)}

    told = evaluated_together(updates, task)

    assert told is not None
    assert told.examples == 50
    check_evaluated(part_that_says(told), task)


def test_sums_that_leave_no_room_for_those_of_others_are_refused() -> None:
    task = task_of(Loss.MEAN_SQUARED_ERROR, Metric.MEAN_ABSOLUTE_ERROR)
    (name,) = task.metrics
    forged = Evaluated(examples=50, loss=1.0, tallies=pack_unpacked({name: np.array([1e100, 50.0])}))

    with pytest.raises(ProtocolError, match="its evaluation"):
        check_evaluated(part_that_says(forged), task)


def part_that_says(evaluated: Evaluated) -> Submit:
    return Submit(run="r", round=0, update=content_of(b"part"), examples=2**48, local_steps=1, evaluated=evaluated)


def check_in_with(runner: PartRunner | AggregatorRunner, agents: Sequence[str], examples: int) -> None:
    for agent in agents:
        tell(runner, agent, CheckIn(examples=examples))  # type: ignore[arg-type]


def test_tallies_that_no_agent_may_send_travel_in_a_part(tmp_path: Path) -> None:
    """Of ten thousand classes."""
    classes, size = 10_000, MAX_TALLIES_BYTES
    output = Output((classes,), True, metrics=(Metric.F1_SCORE,))
    task = msgspec.structs.replace(BUNDLE.task, outputs=(output,))
    (metric,) = task.metrics.values()
    dtype, shape = metric.form(task.training.loss, classes)
    tally = np.full(shape, 300, dtype)
    blob = pack_unpacked({"f1_score": tally})
    assert size < len(blob) <= most_tallies_bytes(task) <= most_part_bytes(task)
    halves = [pack_unpacked({"f1_score": np.where(np.indices(shape)[-1] % 2 == part, tally, 0)}) for part in (0, 1)]
    assert max(map(len, halves)) <= size
    updates = {f"pi-{number}": booked(half, 600 * classes) for number, half in enumerate(halves)}

    weights = load_checkpoint(Tree(tmp_path).site.checkpoints, 0).weights
    nothing = Aggregate(BUNDLE.task.table, weights, {})
    submit, part = submitted_part("run", 0, nothing, weights_digest(weights), updates, task)

    assert submit.evaluated is not None
    assert submit.evaluated.examples == 600 * classes
    assert not submit.evaluated.tallies
    assert tallies_of(part) == blob
    assert len(encode(submit)) < 200


def booked(tallies: bytes, examples: int) -> AcceptedUpdate:
    """An update as the book has it, with an evaluation of so many examples."""
    numbers = dict.fromkeys(("loss", "train_seconds", "idle_memory_mb", "peak_memory_mb", "x_mean", "x_largest"), 1.0)
    norms = dict.fromkeys(("delta_norm", "statistics_norm"), 1.0)
    counts = dict.fromkeys(("size", "local_steps", "counted_steps"), 1)
    evaluated = {"evaluated_examples": examples // 2, "evaluated_loss": 1.0, "tallies": tallies}
    return msgspec.convert({"digest": b"", "weight": examples} | numbers | norms | counts | evaluated, AcceptedUpdate)


def test_a_part_that_weighs_more_than_can_be_said_is_declined_and_the_next_round_goes_on(tmp_path: Path) -> None:
    """Of sub-gateways below this one, which say that they have so many."""
    tree, site = Tree(tmp_path), Below(tmp_path / "below")
    runner = site.takes(given(tree.site, 0), sub_gateways=frozenset(NORTH))
    check_in(runner, NORTH)
    checkpoint = load_checkpoint(tree.site.checkpoints, 0)
    nothing = Aggregate(BUNDLE.task.table, checkpoint.weights, checkpoint.mask)
    blob, huge = encode_partial_sum(nothing, bytes.fromhex(weights_digest(checkpoint.weights))), 2**47
    part = blob[:16] + struct.pack("<IQ", 2**17, huge) + blob[28:]  # as if so many had not moved
    for agent in NORTH:
        submit = Submit(run=runner.state.plan.run, round=0, update=content_of(part), examples=huge, local_steps=1)
        tell(runner, agent, submit, *chunks(part))  # type: ignore[arg-type]

    ((run, round_, why),) = site.declined
    assert (run, round_) == (checkpoint.run, 0)
    assert f"the updates weigh {3 * huge} examples together" in str(why)
    assert not site.parts
    runner.give(replace(given(tree.site, 0), seconds=1.0))
    assert len(site.declined) == 2
