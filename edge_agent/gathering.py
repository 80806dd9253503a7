"""The agent's part in the gathering of statistics before the first round: it gives those of its own examples, once."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge_agent.evaluating import hold_out
from edge_agent.local_round import LocalResult, LocalRound, PreparedUpdate
from fedprune.data import Data, Examples, fit_to
from fedprune.data.description import hold_out_by
from fedprune.data.statistics import MIN_EXAMPLES, pack_statistics
from fedprune.system.usage import peak_memory_mb
from fedprune.task.bundle import read_bundle
from fedprune.task.gathering import own_statistics
from fedprune.wire.messages import Submit
from fedprune.wire.transfer import content_of

_log = logging.getLogger(__name__)


def give_statistics(local: LocalRound, bundle: bytes, read: Callable[[Data], Examples]) -> LocalResult:
    """Make the update that holds the statistics of the examples that this device will train on.

    `read` gives them before normalisation.

    Raises `DataError` for examples that cannot be used, `TaskError` for a bundle that cannot.
    """
    opened, assignment = read_bundle(bundle), local.assignment
    data = fit_to(read(opened.task.data), opened.network.input_forms, opened.task.output_forms)
    by = hold_out_by(opened.task.data)
    data, _ = hold_out(data, assignment.known.hold_out, assignment.known.seed, local.agent, by)
    statistics = own_statistics(opened.task, data)
    if statistics.is_empty:
        _log.warning(
            "this device trains on %s examples and gives no statistics of fewer than %s; it takes the others'",
            len(data),
            MIN_EXAMPLES,
        )
    blob = pack_statistics(statistics)
    submit = Submit(
        run=assignment.run,
        round=assignment.round,
        update=content_of(blob),
        examples=len(data),
        local_steps=1,
        idle_memory_mb=round(local.idle_memory_mb),
        peak_memory_mb=round(peak_memory_mb()),
    )
    return LocalResult(submit, PreparedUpdate(blob, {}, {}), slots=None)
