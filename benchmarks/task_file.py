"""The task.toml of a federation that a benchmark runs: pruned from a tenth to half of the rounds, then fine-tuned."""

from __future__ import annotations

BATCH_SIZE = 32

PRUNING = (0.1, 0.5)
"""The part of the rounds over which sparsity grows; the rest fine-tunes the pruned model."""


def task_file(
    name: str,
    model: str,
    *,
    steps_per_round: int,
    rounds: int,
    sparsity: float,
    mask: str = "shared",
    learning_rate: float = 0.05,
    pruning: tuple[float, float] = PRUNING,
    initial_sparsity: float = 0.0,
) -> str:
    """The whole file; `model` is what its ``[model]`` table has, in TOML. Sparsity grows from `initial_sparsity` over
    the part `pruning` of the rounds."""
    begin, end = (round(rounds * part) for part in pruning)
    end = max(begin + 1, end)
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
kind = "polynomial"
initial_sparsity = {initial_sparsity}
target_sparsity = {sparsity}
begin_step = {begin * steps_per_round}
end_step = {end * steps_per_round}
frequency = {steps_per_round}
"""
