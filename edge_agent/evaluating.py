"""The agent's evaluation of the global model, before it trains, on examples of its own that it never trains on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator

from edge_agent.trainers import TrainingStopped
from fedprune.data import Dataset, Examples
from fedprune.data.hold_out import HoldOutBy, set_aside
from fedprune.errors import ExportError, TaskError
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Weights
from fedprune.task.bundle import Bundle
from fedprune.wire.messages import MAX_TALLIES_BYTES, Evaluated

_log = logging.getLogger(__name__)

_LARGEST_LOSS = 3.4e38
"""The largest that a message holds."""


def hold_out(
    examples: Examples, share: float, seed: int, agent: str, by: HoldOutBy | None = None
) -> tuple[Examples, Examples | None]:
    """Set a share of the examples aside: those to train on, and those to evaluate on, the same ones in every round.

    None of them is set aside where the share is less than one example. See `set_aside`, which raises `DataError`.
    """
    train, held_out = set_aside(examples, share, by, Keyed(seed, agent, "hold-out"))
    if not len(held_out):
        return examples, None
    return examples.only(train), examples.only(held_out)


def evaluate_global(
    weights: Weights, bundle: Bundle, held_out: Examples, should_stop: Callable[[], bool]
) -> Evaluated | None:
    """Evaluate the global model. None, and a warning, where this device cannot: it trains all the same.

    Raises `TrainingStopped` if nobody wants the round any more.
    """
    # A device takes these into its memory only where its federation wants them.
    from fedprune.task.evaluation import InferenceGraph
    from fedprune.task.tallies import pack_tallies

    graph = InferenceGraph(bundle.network, threads=1)
    try:
        graph.load(weights)
        batches = _until_stopped(held_out.parts(graph.batch_size), should_stop)
        tally = graph.tally(batches, bundle.task.output_forms)
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


def _until_stopped(batches: Iterable[Dataset], should_stop: Callable[[], bool]) -> Iterator[Dataset]:
    for batch in batches:
        if should_stop():
            raise TrainingStopped("stopped while the global model was evaluated")
        yield batch
