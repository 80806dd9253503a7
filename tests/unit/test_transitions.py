"""Tables of transitions: what is not listed cannot happen, and the charts that people read are the tables' own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import pytest

from aggregator import round_machine
from edge_agent import agent_machine
from fedprune.wire.messages import DOWNLINK, UPLINK
from fedprune.wire.transitions import UnlistedEventError, chart, check_complete, row, transition


class Door(Enum):
    OPEN = auto()
    SHUT = auto()


@dataclass(frozen=True)
class State:
    phase: Door


class Push: ...


def shut(_: State, __: object, ___: float) -> tuple[State, tuple[str, ...]]:
    return State(Door.SHUT), ("bang",)


def test_a_row_leads_where_it_says() -> None:
    table = {(Door.OPEN, Push): row(shut, Door.SHUT)}

    assert transition(table, State(Door.OPEN), Push, Push(), 0.0) == (State(Door.SHUT), ("bang",))


def test_a_row_that_leads_elsewhere_is_a_bug() -> None:
    with pytest.raises(AssertionError, match=r"led to Door\.SHUT, which its row does not name"):
        transition({(Door.OPEN, Push): row(shut)}, State(Door.OPEN), Push, Push(), 0.0)


def test_an_event_without_a_row_is_a_bug() -> None:
    with pytest.raises(UnlistedEventError, match=r"Push in phase Door\.SHUT"):
        transition({(Door.OPEN, Push): row(shut, Door.SHUT)}, State(Door.SHUT), Push, Push(), 0.0)


def test_a_table_that_forgets_a_kind_is_found_before_anything_runs() -> None:
    with pytest.raises(UnlistedEventError, match=r"Push has no row in phase Door\.SHUT"):
        check_complete({(Door.OPEN, Push): row(shut, Door.SHUT)}, Door, [Push])


@pytest.mark.parametrize(
    ("machine", "kinds"), [(round_machine, UPLINK), (agent_machine, DOWNLINK)], ids=["aggregator", "agent"]
)
def test_a_message_kind_that_a_machine_forgets_cannot_be_shipped(machine: Any, kinds: dict[str, type]) -> None:
    """The tables are checked when they are imported; here one more kind is added, and missed."""

    class Ping: ...

    phases = {phase for phase, _ in machine.TABLE}
    check_complete(machine.TABLE, phases, kinds.values())
    with pytest.raises(UnlistedEventError, match="Ping has no row"):
        check_complete(machine.TABLE, phases, [*kinds.values(), Ping])


@pytest.mark.parametrize("machine", [round_machine, agent_machine], ids=["aggregator", "agent"])
def test_the_chart_in_the_docstring_is_drawn_from_the_table(machine: Any) -> None:
    drawn = "\n".join(f"    {line}" for line in chart(machine.TABLE).splitlines())

    assert drawn in (machine.__doc__ or ""), f"put this chart there:\n{drawn}"
