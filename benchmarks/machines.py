"""The cost of the gateway's state machine: `python -m benchmarks.machines [--agents 1000,10000] [--json FILE]`

Whole rounds go through the machine alone, without network, disk or arithmetic: every agent checks in twice (the second
time with its ticket), asks for task and model, submits, sends its update and is accepted. Each size of fleet has a
process of its own. Printed are microseconds of processor time for an event, all kinds together, and how many bytes the
process's memory grew for each agent. Exits with 1 if an event costs more than 100 us, or if the memory for each agent
of the largest fleet is more than twice that of the smallest.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import msgspec

from aggregator.round_answers import ticket
from aggregator.round_machine import step, wake_at
from aggregator.round_state import (
    Connected,
    Event,
    LinkDrained,
    Merge,
    Merged,
    Model,
    Phase,
    Plan,
    RoundState,
    Said,
    StoreUpdate,
    Ticked,
    UpdateStored,
    resume,
)
from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from fedprune.system.usage import peak_memory_mb
from fedprune.wire.messages import CheckIn, Content, Message, Submit
from fedprune.wire.transfer import CHUNK_SIZES, Receiving, chunk_of, content_of

ROUNDS = 2
MOST_US = 100.0
"""Microseconds that an event may cost."""

_EXAMPLES = 1500
_UPDATE_BYTES = 200
_KEY = b"the key of the benchmark"


class Cost(msgspec.Struct, frozen=True):
    """Of a fleet of so many `agents`: `us_per_event` of processor time, and memory."""

    agents: int
    events: int
    us_per_event: float
    bytes_per_agent: float


class _Gateway:
    """The machine, its clock, and what it took."""

    def __init__(self, agents: int) -> None:
        self._plan = _plan(agents)
        self.state: RoundState = resume(
            self._plan, _model(0), 0, assigned={}, cap=0, accepted={}, last_accepted={}, left_out={}, refused={}
        )
        self._now, self.events, self.seconds = 0.0, 0, 0.0

    def gets(self, event: Event) -> None:
        """A transition, and the events that follow from its actions."""
        began = time.process_time()
        self.state, actions = step(self.state, event, self._now)
        self.seconds += time.process_time() - began
        self.events += 1
        for action in actions:
            if isinstance(action, StoreUpdate):
                self.gets(UpdateStored(action.agent))
            elif isinstance(action, Merge):
                self.gets(Merged(_model(action.round + 1)))

    def hears(self, agent: str, *messages: Message) -> None:
        for message in messages:
            self.gets(Said(agent, message))

    def waits(self) -> None:
        self._now = max(self._now, wake_at(self.state) or 0.0)
        self.gets(LinkDrained())
        self.gets(Ticked())


def measure(agents: int) -> Cost:
    """Let a fleet of `agents` go through `ROUNDS` rounds."""
    gateway, before = _Gateway(agents), peak_memory_mb()
    gateway.gets(Connected())
    for name in _names(agents):
        gateway.hears(name, CheckIn(examples=_EXAMPLES))
        gateway.hears(name, CheckIn(examples=_EXAMPLES, ticket=ticket(_KEY, name)))
    for round_ in range(ROUNDS):
        assert gateway.state.phase is Phase.TRAINING
        contents = (gateway.state.model.content, gateway.state.plan.task)
        for name in _names(agents):
            gateway.hears(name, *(Receiving.begin(content, 0.0)[1] for content in contents))
        gateway.waits()
        for name in _names(agents):
            blob = name.encode().ljust(_UPDATE_BYTES, b".")
            content = content_of(blob)
            gateway.hears(name, _submit(round_, content), chunk_of(blob, content.digest, 0, CHUNK_SIZES[0]))
    assert gateway.state.phase is Phase.DONE
    return Cost(
        agents,
        gateway.events,
        round(1e6 * gateway.seconds / gateway.events, 1),
        round((peak_memory_mb() - before) * 1e6 / agents),
    )


def _names(agents: int) -> Iterator[str]:
    """As `Topics` makes them of topics: one string for each agent."""
    return (sys.intern(f"agent-{index:06d}") for index in range(agents))


def _submit(round_: int, update: Content) -> Submit:
    return Submit(run="run", round=round_, update=update, examples=_EXAMPLES, local_steps=1)


def _model(version: int) -> Model:
    digest = hashlib.sha256(b"%d" % version).digest()
    return Model(Content(digest=digest, size=1_000_000), digest)


def _plan(agents: int) -> Plan:
    return Plan(
        run="run",
        incarnation=1,
        rounds=ROUNDS,
        cohort=agents,
        quorum=agents,
        deadline_s=1e6,
        gather_s=1e6,
        seed=1,
        task=content_of(b"task"),
        clock_steps_per_round=1,
        codec="mask | int8",
        max_update_bytes=_UPDATE_BYTES,
        ticket_key=_KEY,
        examples_cap=10.0,
    )


def _sizes(_: click.Context, __: click.Parameter, value: str) -> list[int]:
    sizes = value.split(",")
    if not all(size.isdecimal() and 1 <= int(size) <= 1_000_000 for size in sizes):
        raise click.BadParameter(f"{value}: write numbers from 1 to 1000000 with commas between, as 1000,10000")
    return [int(size) for size in sizes]


@click.command(cls=Script, help=__doc__)
@click.option("--agents", default="1000,10000", callback=_sizes, help="Sizes of fleets.  [default: 1000,10000]")
@json_option("Write the list of costs there.")
def main(agents: Any, target: Path | None) -> None:
    costs: list[Cost] = []
    for size in agents:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            costs.append(process.submit(measure, size).result())
        click.echo(
            "{0.agents:>7} agents: {0.events:>7} events, {0.us_per_event:>6} us an event, "
            "{0.bytes_per_agent:>6.0f} bytes an agent".format(costs[-1])
        )
    write_json(costs, target)
    smallest, largest = min(costs, key=lambda cost: cost.agents), max(costs, key=lambda cost: cost.agents)
    settle(
        {
            f"an event costs at most {MOST_US:g} us": all(cost.us_per_event <= MOST_US for cost in costs),
            "memory for each agent does not grow with the fleet": (
                largest.bytes_per_agent <= 2 * max(smallest.bytes_per_agent, 1.0) if len(costs) > 1 else None
            ),
        }
    )


if __name__ == "__main__":
    main()
