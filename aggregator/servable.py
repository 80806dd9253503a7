"""A federation that can be served: its task, its settings and its held-out examples fit each other.

What does not is said before anything is written, when a federation is started, and when it is put into a queue.
"""

from __future__ import annotations

from pathlib import Path

from aggregator.local_work import check_normalizable
from aggregator.settings import FederationSettings
from fedprune.data import fit_to, open_raw_examples
from fedprune.data.room import Room
from fedprune.errors import ConfigurationError
from fedprune.pruning.schedules import STEP_LIMIT
from fedprune.task.bundle import Bundle, Task
from fedprune.task.evaluation import Evaluator
from fedprune.task.gathering import is_incomplete
from fedprune.wire.topics import check_id


def check_servable(settings: FederationSettings, bundle: Bundle) -> None:
    """Raise `ConfigurationError` for settings by which the bundle's task cannot be learned."""
    for agent in settings.rounds.fleet:
        check_id(agent, "rounds.fleet: agent name")
    _check_partial_sums(bundle, settings)
    _check_clock(bundle, settings.rounds.count)
    _check_masks(bundle, settings)
    if settings.aggregation.rule == "fednova":
        check_normalizable(bundle.task)
    _check_evaluable(bundle, settings)


def check_held_out(settings: FederationSettings, bundle: Bundle, held_out: Path, room: Room) -> None:
    """Raise `DataError` for examples that the bundle's models cannot be evaluated with, `ExportError` where nothing
    here runs these."""
    if is_incomplete(bundle.task):  # what they become by statistics is not known yet
        fit_to(
            open_raw_examples(held_out, bundle.task.data, room), bundle.network.input_forms, bundle.task.output_forms
        )
    else:
        Evaluator(bundle, held_out, threads=settings.threads, room=room)


def _check_partial_sums(bundle: Bundle, settings: FederationSettings) -> None:
    """What a gateway makes of single updates, sub-gateways do not send."""
    for gateway in settings.rounds.sub_gateways:
        check_id(gateway, "rounds.sub_gateways: agent name")
    why = why_no_partial_sums(bundle.task)
    if settings.aggregation.rule == "fednova":
        why = 'FedNova weighs each single update: set aggregation.rule to "fedavg"'
    if why and settings.rounds.sub_gateways:
        raise ConfigurationError(f"rounds.sub_gateways: {why}; or leave them away")


def why_no_partial_sums(task: Task) -> str:
    """Why updates to the models of a task cannot be added up below the gateway; empty if they can."""
    if not task.pruning.mask.rules.is_shared:
        return 'their agents must share a mask: build the task with mask = "shared"'
    if task.pruning.is_chosen_by_gateway:
        return 'masks must follow from the model: build the task with pruning.score = "magnitude", without regrowth'
    return "they gather no statistics: give those of the task in task.toml" if is_incomplete(task) else ""


def _check_clock(bundle: Bundle, rounds: int) -> None:
    """The schedule's clock, which counts steps over all rounds, must not run over."""
    steps = bundle.task.training.clock_steps_per_round
    if steps * rounds >= STEP_LIMIT:
        raise ConfigurationError(
            f"rounds.count {rounds} times the task's steps_per_round {steps} is {steps * rounds} steps; "
            f"at most {STEP_LIMIT - 1} can be counted: lower rounds.count"
        )


def _check_evaluable(bundle: Bundle, settings: FederationSettings) -> None:
    """The gateway cannot evaluate models of which it has a part only."""
    local = sorted({spec.layer for spec in bundle.task.table.local})
    if local and settings.held_out is not None:
        raise ConfigurationError(
            f"held_out: layer {local[0]!r} of the task stays on the devices, so the gateway has no whole model to "
            "evaluate; leave held_out away, and the agents evaluate theirs"
        )


def _check_masks(bundle: Bundle, settings: FederationSettings) -> None:
    """Models can travel as deltas only where all sides can compute their masks."""
    if settings.codec.sends_deltas and not bundle.task.pruning.mask.rules.is_shared:
        raise ConfigurationError(
            'codec.model and codec.preset need a task whose mask is "shared": agents that choose their own leave no '
            "residual to send later; leave them out, or build the task anew"
        )
    if settings.codec.sends_deltas and bundle.task.pruning.is_chosen_by_gateway:
        raise ConfigurationError(
            'codec.model and codec.preset need a task whose pruning.score is "magnitude", without pruning.regrowth: '
            "other masks only the gateway can compute, and with these codecs masks do not travel; leave them out, or "
            "build the task anew"
        )
