"""The files that init writes: task.toml, federation.toml and agent.toml, with a comment for what one may change."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from export.scaffold.model_look import ModelLook
from export.scaffold.plan import Plan
from export.settings import TaskSettings
from fedprune.config import from_table
from fedprune.data.description import Data
from fedprune.data.normalization import lacks_statistics
from fedprune.model.losses import LabelForm

_WIDTH, _COMMENTS = 110, 32
"""Columns of a list, and before a comment."""
_NOTHING: tuple[Any, ...] = (None, [], ())
"""Values of settings that are not written."""
_SAYS = {
    LabelForm.CLASS_NUMBERS: "labels are one class each",
    LabelForm.PROBABILITIES: "labels are one-hot rows, or other probabilities",
    LabelForm.BITS: "labels are zeros and ones",
    LabelForm.NUMBERS: "labels are numbers",
}


def task_toml(name: str, model_file: str, model: ModelLook, plan: Plan) -> str:
    """The whole task.toml, which was read back. Raises `ConfigurationError` for what a task cannot have."""
    takes, returns = _shapes(model.inputs), _shapes(output.shape for output in model.outputs)
    text = f"""\
# What the federation learns. Build it with: fedprune task build task.toml --out task.fedtask
# Every setting is explained in docs/SETTINGS.md.
name = {_value(name)}

[model]
# {model.parameters:,} weights, {model.prunable:,} of them may be pruned. It takes {takes} and returns {returns}.
file = {_value(model_file)}
{_line('# initial = "seed"', "draws the initial weights anew, so that devices need not be sent any")}

[training]
# {plan.examples:,} examples were found: {plan.agents} agents train on four fifths of them.
{_line(f"steps_per_round = {plan.steps_per_round}", "local steps between two exchanges")}
{_line(f"batch_size = {plan.batch_size}", "a device takes a smaller one if its examples or memory want it")}
optimizer = {{ name = "adam", learning_rate = 0.001 }}
loss = "{plan.loss}" # {_SAYS[plan.loss.rule.labels]}
{_for_classes(plan)}
[pruning]
mask = "shared"
allocation = "lamp"

[pruning.schedule]
kind = "polynomial"
initial_sparsity = 0.0
{_line(f"target_sparsity = {plan.sparsity:g}", "the part of the weights that is zero in the end; 0 trains dense")}
begin_round = {plan.begin_round}
{_line(f"end_round = {plan.end_round}", "the rounds after it let the pruned model recover")}

[data]
# What everybody's files are, and what is done to them: docs/DATA.md.
{_data_lines(plan.data)}"""
    from_table(tomllib.loads(text), TaskSettings, "task.toml")
    return text


def federation_toml(name: str, plan: Plan) -> str:
    return f"""\
# How it is learned, on the gateway. Run it with: fedprune aggregator federation.toml
name = {_value(name)}
task = "task.fedtask"
state = "run"
# held_out = "held-out.npz"       # the gateway's own examples; without them each agent evaluates on a fifth of its own

[broker]
url = "mqtt://127.0.0.1:1883"     # the gateway's Mosquitto: docs/GETTING_STARTED.md

[rounds]
count = {plan.rounds}
{_line(f"cohort = {plan.agents}", "agents that train in each round")}
{_line("quorum = 0.5", "the part of them that is enough at the deadline")}

[codec]
update = "mask | feedback(2) | int8"  # how updates are made small: docs/CODECS.md
"""


def agent_toml(name: str, data: str) -> str:
    return f"""\
# One device. Run it with: fedprune agent --config agent.toml
name = "agent-1"                  # each device has a name of its own
data = {_value(data)}
federation = {_value(name)}

[broker]
url = "mqtt://127.0.0.1:1883"
"""


def _for_classes(plan: Plan) -> str:
    if plan.loss.rule.activation is None:
        return ""
    return f"""\
{_line("# logit_adjustment = 1.0", "where devices see different classes, and none is rare everywhere")}
{_line("# label_smoothing = 0.1", "try it where codec.preset sends few bytes")}
"""


def _line(setting: str, comment: str) -> str:
    return f"{setting:<{_COMMENTS}} # {comment}"


def _data_lines(data: Data) -> str:
    table: Mapping[str, Any] = msgspec.to_builtins(data)
    told = "# Nobody scales anything: devices tell mean and deviation before the first round.\n"
    return (told if lacks_statistics(data) else "") + "".join(
        f"{key} = {_value(value)}\n" for key, value in table.items() if value not in _NOTHING
    )


def _value(value: Any) -> str:
    """A value as TOML has it. Strings of JSON are strings of TOML, but for what is beyond 16 bits."""
    match value:
        case dict():
            inner = ", ".join(f"{key} = {_value(each)}" for key, each in value.items() if each not in _NOTHING)
            return f"{{ {inner} }}"
        case list() | tuple():
            return _listed([_value(each) for each in value])
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case _:
            return json.dumps(value)


def _listed(values: list[str]) -> str:
    line = f"[{', '.join(values)}]"
    if len(line) <= _WIDTH:
        return line
    lines = [""]
    for value in values:
        if len(lines[-1]) + len(value) > _WIDTH:
            lines.append("")
        lines[-1] += f"{value}, "
    return "[\n" + "".join(f"    {each.rstrip()}\n" for each in lines if each) + "]"


def _shapes(shapes: Iterable[tuple[int, ...]]) -> str:
    return " and ".join("x".join(map(str, shape)) or "a number" for shape in shapes)
