"""A run of which no round follows: its agents are told, and what they still owe is answered by the book."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from aggregator.exchange import Exchange
from aggregator.round_state import Event, Model, Phase, Plan, StoreUpdate
from aggregator.run_store import RunStore
from fedprune.identity.device_keys import DeviceKeys
from fedprune.identity.manifest_signer import ManifestSigner
from fedprune.wire.link import Link
from fedprune.wire.topics import Topics
from fedprune.wire.versions import SPOKEN


class EndedRunner(Exchange):
    """The agents' side of a run that is over. Connected, it says so; who checks in is sent home."""

    def __init__(
        self,
        plan: Plan,
        topics: Topics,
        link: Link,
        store: RunStore,
        clock: Callable[[], float],
        keys: DeviceKeys | None = None,
        signer: ManifestSigner | None = None,
    ) -> None:
        super().__init__(plan.cohort, topics, link, store.book, store.updates, clock, keys, signer, SPOKEN)
        self._resume(plan, Model(plan.task, b""), store.book.last_round())  # nobody is served a model any more
        self.state = replace(self.state, phase=Phase.DONE)

    def _store_updates(self, updates: Sequence[StoreUpdate]) -> list[Event]:
        raise AssertionError(f"a run that is over takes no updates, and {len(updates)} came")

    def _merge(self, round_: int) -> list[Event]:
        raise AssertionError(f"a run that is over merges nothing, nor round {round_}")

    def _give_up(self, failed: int) -> None:
        raise AssertionError(f"a run that is over gives nothing up, whatever {failed} agents say")

    def _notice(self) -> None:
        """Nothing changes any more."""
