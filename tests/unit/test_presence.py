"""Who waits for work: heard lately, counted without a walk, and never more than there is room for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator import presence
from aggregator.presence import GENERATION_S, Presence, Waiting


def test_an_agent_counts_for_one_to_two_generations() -> None:
    waiting = Presence().heard("early", Waiting(10))
    waiting = waiting.at(GENERATION_S - 1.0).heard("late", Waiting(20))

    assert set(waiting.at(GENERATION_S)) == {"early", "late"}
    waiting = waiting.at(GENERATION_S).heard("late", Waiting(30))
    assert set(waiting.at(2 * GENERATION_S)) == {"late"}
    assert waiting.at(2 * GENERATION_S)["late"].examples == 30
    assert not len(waiting.at(10 * GENERATION_S))


def test_there_is_room_for_so_many_and_those_who_are_here_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "MAX_PRESENT", 3)
    waiting = Presence()
    for index in range(5):
        waiting = waiting.heard(f"pi-{index}", Waiting(1))

    assert set(waiting) == {"pi-0", "pi-1", "pi-2"}
    assert waiting.heard("pi-1", Waiting(7))["pi-1"].examples == 7


_STEPS = st.lists(st.tuples(st.sampled_from("abcde"), st.booleans(), st.floats(0.0, 100.0)), max_size=40)


@given(_STEPS)
def test_it_is_what_a_plain_dictionary_of_times_says(steps: list[tuple[str, bool, float]]) -> None:
    waiting, now, heard = Presence(), 0.0, dict[str, float]()
    for agent, comes, pause in steps:
        now += pause
        waiting = waiting.at(now)
        waiting = waiting.heard(agent, Waiting(1)) if comes else waiting.without(agent)
        if comes:
            heard[agent] = now
        else:
            heard.pop(agent, None)
        assert len(waiting) == len(set(waiting))
        assert {name for name, at in heard.items() if now - at < GENERATION_S} <= set(waiting)
        assert set(waiting) <= {name for name, at in heard.items() if now - at < 2 * GENERATION_S}
