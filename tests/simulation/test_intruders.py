"""Whatever an intruder says, nobody stops; and what cannot be ours changes nothing at all."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.book import Book
from fedprune.codecs import DEFAULT_CODEC
from fedprune.model.tensors import weights_digest
from fedprune.pruning.policy import MaskPolicy
from fedprune.task.checkpoints import load_checkpoint
from tests.simulation.faults import CALM, Process, SimulatedDisk
from tests.simulation.intruder import HARMLESS, Mischief, Trick
from tests.simulation.world import COHORT, ROUNDS, World

CODECS = (DEFAULT_CODEC, "mask | fp32", "mask | feedback(10) | topk(0.5) | ternary | rice")


def all_together() -> World:
    """Every agent takes part in every round, so that the result does not depend on who is quick."""
    return World(1, MaskPolicy.SHARED, CALM, DEFAULT_CODEC, agents=COHORT, quorum=COHORT)


def result(world: World) -> str:
    disk = SimulatedDisk(world.checkpoints, Process("reader", world.physics))
    return weights_digest(load_checkpoint(disk, ROUNDS).weights)


def unleash(world: World, mischiefs: list[tuple[float, Mischief]]) -> None:
    """Let each be done at its time, with a message that was overheard by then."""

    def happen(mischief: Mischief) -> None:
        history = world.network.history
        if history:
            overheard = history[random.Random(mischief.choices).randrange(len(history))]
            sent = mischief.of(overheard, world.topics)
            world.physics.note(f"intruder: {mischief.trick.name} on {sent.topic[:80]}")
            world.network.publish(sent.topic, sent.payload, retain=False)
            history.pop()  # only what others said is worth repeating

    for at, mischief in mischiefs:
        world.physics.after(at, lambda mischief=mischief: happen(mischief))  # type: ignore[misc]


def mischiefs(*tricks: Trick) -> st.SearchStrategy[Any]:
    one = st.builds(Mischief, st.sampled_from(tricks), st.integers(0, 2**32))
    return st.lists(st.tuples(st.floats(0.0, 200.0), one), max_size=40)


UNDISTURBED = all_together()
UNDISTURBED.run()


@settings(deadline=None, max_examples=80)
@given(mischiefs(*HARMLESS))
def test_what_cannot_be_ours_changes_nothing(drawn: list[tuple[float, Mischief]]) -> None:
    world = all_together()
    unleash(world, drawn)

    world.run()

    assert result(world) == result(UNDISTURBED)
    assert [record.agents for record in Book(world.connection).records()] == [COHORT] * ROUNDS


@settings(deadline=None, max_examples=120)
@given(mischiefs(*Trick), st.sampled_from(MaskPolicy), st.sampled_from(CODECS))
def test_forgeries_may_do_harm_but_stop_nobody(
    drawn: list[tuple[float, Mischief]], policy: MaskPolicy, codec: str
) -> None:
    """Who may say what is for the broker's access list; here, nothing may raise outside the tree."""
    world = World(1, policy, CALM, codec)
    unleash(world, drawn)

    world.run(give_up=2000.0)

    records = Book(world.connection).records()
    assert [record.round for record in records] == list(range(len(records)))


def test_what_is_ignored_is_counted() -> None:
    world = all_together()
    unleash(world, [(float(second), Mischief(Trick.NOISE, second)) for second in range(20, 60)])

    world.run()

    assert sum(record.ignored for record in Book(world.connection).records()) > 5
