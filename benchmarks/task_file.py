"""The task.toml of a federation that a benchmark runs: pruned from a tenth to half of the rounds, then fine-tuned."""

from __future__ import annotations

BATCH_SIZE = 32

_PRUNING_BEGINS, _PRUNING_ENDS = 0.1, 0.5
"""The part of the rounds over which sparsity grows; the rest fine-tunes the pruned model."""


def task_file(
    name: str,
    model: str,
    *,
    steps_per_round: int,
    rounds: int,
    sparsity: float,
    units: float = 0.0,
    mask: str = "shared",
    learning_rate: float = 0.05,
) -> str:
    """The whole file; `model` is what its ``[model]`` table has, in TOML. A fraction `units` of all units goes too."""
    begin = round(rounds * _PRUNING_BEGINS)
    end = max(begin + 1, round(rounds * _PRUNING_ENDS))
    window = begin * steps_per_round, end * steps_per_round, steps_per_round
    schedule_of_units = f"\n[pruning.units.schedule]\n{_schedule(units, *window)}" if units else ""
    return f"""\
name = "{name}"

[model]
{model}

[training]
steps_per_round = {steps_per_round}
batch_size = {BATCH_SIZE}
optimizer = {{ name = "sgd", learning_rate = {learning_rate}, momentum = 0.9 }}

[pruning]
mask = "{mask}"
allocation = "{"lamp" if mask == "shared" else "uniform"}"

[pruning.schedule]
{_schedule(sparsity, *window)}{schedule_of_units}"""


def _schedule(target: float, begin: int, end: int, frequency: int) -> str:
    """A schedule's table in TOML, in global steps."""
    return f"""\
kind = "polynomial"
initial_sparsity = 0.0
target_sparsity = {target}
begin_step = {begin}
end_step = {end}
frequency = {frequency}
"""
