"""The drawn updates of the load: a gateway takes them, and remembers of them, as of agents that train."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aggregator.folding import Folding
from aggregator.global_model import new_model
from aggregator.settings import AS_USUAL
from benchmarks.load.updates import DrawnUpdates
from edge_agent.round_model import RoundModel
from fedprune.codecs import Values, parse_codec
from fedprune.codecs.history import MOST_UPDATES
from fedprune.pruning.masks import full_mask
from tests.gateways import BUNDLE
from tests.samples import assignment, changed

KINDS, SEED = 3, 7
CHOSEN = "mask | feedback(100) | topk(0.3) | ternary"
TASK = BUNDLE.task
START = BUNDLE.initial_weights()
MODEL = new_model(START, TASK, "run", 0, Values.FP16, full_mask(TASK.table)).checkpoint


def drawn(codec: str, rounds: int) -> list[list[bytes]]:
    """Each round's updates, to a model that stays as it is."""
    updates, model = (
        DrawnUpdates(BUNDLE, KINDS),
        RoundModel(BUNDLE.forms.of(None), dict(MODEL.weights), MODEL.mask, MODEL.sent),
    )
    return [updates.of_round(model, changed(assignment(each), codec=codec, seed=SEED)) for each in range(rounds)]


def test_a_gateway_takes_the_updates_of_some_rounds_and_remembers_what_their_senders_do() -> None:
    codec = f"{CHOSEN} | history"
    folding = Folding(TASK, BUNDLE.network, SEED, parse_codec(codec), AS_USUAL)
    remembered: list[tuple[bytes, ...]] = [()] * KINDS

    for version, blobs in enumerate(drawn(codec, MOST_UPDATES + 2)):
        model = replace(MODEL, version=version)
        for kind, blob in enumerate(blobs):
            taken = folding.take(blob, f"a{kind}", model, 1, remembered[kind])
            assert taken.norms.delta > 0
            remembered[kind] = (taken.signs, *remembered[kind])[:MOST_UPDATES]
        assert folding.folded(model).sums.examples == KINDS
        folding.forget()


def test_kinds_and_rounds_differ_and_all_is_drawn_again_alike() -> None:
    updates = drawn(f"{CHOSEN} | context", 2)

    assert len({blob for blobs in updates for blob in blobs}) == 2 * KINDS
    assert drawn(f"{CHOSEN} | context", 2) == updates


def test_a_history_saves_bytes_as_it_does_where_updates_are_learned() -> None:
    with_history, without = (
        np.mean([len(blob) for blob in drawn(codec, MOST_UPDATES + 1)[-1]])
        for codec in (f"{CHOSEN} | history", f"{CHOSEN} | context")
    )

    assert with_history < without
