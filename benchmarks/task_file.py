"""The task.toml of a federation that a benchmark runs: pruned from a tenth to half of the rounds, then fine-tuned."""

from __future__ import annotations

from typing import Any

BATCH_SIZE = 32

PRUNING = (0.1, 0.5)
"""The part of the rounds over which sparsity grows; the rest fine-tunes the pruned model."""


def frugal_course(sparsity: float) -> dict[str, Any]:
    """What `task_file` is given where few bytes are sent: half sparse from nearly the first round on, so that a larger
    share of what is alive moves in each; and with logits adjusted and labels smoothed, so that agents move alike."""
    schedule = {"initial_sparsity": min(0.5, sparsity), "pruning": (1 / 60, 0.8), "power": 2.2}
    return schedule | {"alpha": 0.1, "decay_from": 44 / 60, "logit_adjustment": 1.0, "label_smoothing": 0.1}


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
    alpha: float | None = None,
    adam: bool = False,
    data: str = "",
    pruning: tuple[float, float] = PRUNING,
    initial_sparsity: float = 0.0,
    power: float = 3.0,
    every: int = 1,
    decay_from: float | None = None,
    logit_adjustment: float = 0.0,
    label_smoothing: float = 0.0,
) -> str:
    """The whole file; `model` and `data` are what its tables of these names have, in TOML. Without `adam` the optimizer
    is SGD with momentum. With `alpha` the learning rate falls along a cosine to so much of itself, from the part
    `decay_from` of the rounds on, or once the model is pruned. Sparsity grows from `initial_sparsity` over the part
    `pruning` of the rounds, at each `every`th of them, by the polynomial of `power`; a fraction `units` of all units
    goes too, in the same rounds."""
    begin, end = (round(rounds * part) for part in pruning)
    end = max(begin + every, end - (end - begin) % every)
    decay_begin = end if decay_from is None else round(rounds * decay_from)
    rounds_left = f"begin_round = {decay_begin}, end_round = {rounds}"
    decay = "" if alpha is None else f'learning_rate_decay = {{ kind = "cosine", {rounds_left}, alpha = {alpha} }}\n'
    optimizer = "adam" if adam else "sgd"
    described = f"\n[data]\n{data}" if data else ""
    window = begin * steps_per_round, end * steps_per_round, every * steps_per_round, power
    schedule_of_units = f"\n[pruning.units.schedule]\n{_schedule(0.0, units, *window)}" if units else ""
    momentum = "" if adam else ", momentum = 0.9"
    loss = {"logit_adjustment": logit_adjustment, "label_smoothing": label_smoothing}
    loss_settings = "".join(f"{name} = {value}\n" for name, value in loss.items() if value)
    return f"""\
name = "{name}"

[model]
{model}

[training]
steps_per_round = {steps_per_round}
batch_size = {BATCH_SIZE}
optimizer = {{ name = "{optimizer}", learning_rate = {learning_rate}{momentum} }}
{decay}{loss_settings}
[pruning]
mask = "{mask}"
allocation = "{"lamp" if mask == "shared" else "uniform"}"

[pruning.schedule]
{_schedule(initial_sparsity, sparsity, *window)}{schedule_of_units}{described}"""


def _schedule(initial: float, target: float, begin: int, end: int, frequency: int, power: float) -> str:
    """A schedule's table in TOML, in global steps."""
    return f"""\
kind = "polynomial"
initial_sparsity = {initial}
target_sparsity = {target}
begin_step = {begin}
end_step = {end}
frequency = {frequency}
power = {power}
"""
