"""The agent's evaluation of the global model, before it trains, on examples of its own that it never trains on."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from edge_agent.trainers import TrainingStopped
from fedprune.data import Dataset
from fedprune.errors import ExportError, TaskError
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, Weights
from fedprune.task.bundle import Bundle
from fedprune.wire.messages import MAX_TALLIES_BYTES, Evaluated

_log = logging.getLogger(__name__)

_LARGEST_LOSS = 3.4e38
"""The largest that a message holds."""


def hold_out(data: Dataset, share: float, seed: int, agent: str) -> tuple[Dataset, Dataset | None]:
    """Set a share of the examples aside: those to train on, and those to evaluate on, the same ones in every round.

    None of them is set aside where the share is less than one example.
    """
    aside = math.floor(share * len(data))
    if not aside:
        return data, None
    order = Keyed(seed, agent, "hold-out").permutation(len(data))
    return data.take(np.sort(order[aside:])), data.take(np.sort(order[:aside]))


def evaluate_global(
    weights: Weights, bundle: Bundle, held_out: Dataset, should_stop: Callable[[], bool]
) -> Evaluated | None:
    """Evaluate the global model. None, and a warning, where this device cannot: it trains all the same.

    Raises `TrainingStopped` if nobody wants the round any more.
    """
    # A device takes these into its memory only where its federation wants them.
    from fedprune.task.evaluation import InferenceGraph, score
    from fedprune.task.padding import counted_places
    from fedprune.task.tallies import pack_tallies

    graph = InferenceGraph(bundle.network, threads=1)
    try:
        graph.load(weights)
        inputs = list(held_out.inputs.values())
        answers = _until_stopped(graph.predict(inputs), should_stop)
        tally = score(answers, held_out, bundle.task.output_forms, counted_places(bundle.network, inputs))
    except (ExportError, TaskError) as error:
        _log.warning("cannot evaluate the global model here: %s", error)
        return None
    loss = tally.evaluation.loss
    if not abs(loss) <= _LARGEST_LOSS:
        return Evaluated(examples=len(held_out))
    blob = pack_tallies(tally.metrics)
    if len(blob) > MAX_TALLIES_BYTES:
        _log.warning("the evaluation of the global model takes %s bytes, which is too much to be sent", len(blob))
        return None
    return Evaluated(examples=len(held_out), loss=loss, tallies=blob)


def _until_stopped(
    answers: Iterable[tuple[Array, ...]], should_stop: Callable[[], bool]
) -> Iterator[tuple[Array, ...]]:
    for outputs in answers:
        if should_stop():
            raise TrainingStopped("stopped while the global model was evaluated")
        yield outputs
