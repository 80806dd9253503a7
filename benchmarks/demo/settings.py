"""The options of a demo, and the configuration files that it writes for the parts it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from fedprune.data.prepare import SplitSummary
from fedprune.errors import ConfigurationError

BATCH_SIZE = 32
HELD_OUT_EXAMPLES = 10_000

_PRUNING_BEGINS, _PRUNING_ENDS = 0.1, 0.5
"""The part of the rounds over which sparsity grows; the rest fine-tunes the pruned model."""


@dataclass(frozen=True)
class DemoSettings:
    """The demo's options. `broker` is embedded, mosquitto, or an mqtt:// address; `federation` is its name there."""

    agents: int
    rounds: int
    examples_per_agent: int
    partition: str
    seed: int
    sparsity: float
    values: str
    mask: str
    trainer: str
    broker: str
    federation: str
    data: str
    out: Path


def task_toml(settings: DemoSettings, split: SplitSummary) -> str:
    """The task: CNN-108k, pruned from a tenth to half of the rounds, one local epoch a round."""
    steps = math.ceil(min(part.examples for part in split.agents) / BATCH_SIZE)
    begin = round(settings.rounds * _PRUNING_BEGINS)
    end = max(begin + 1, round(settings.rounds * _PRUNING_ENDS))
    allocation = "lamp" if settings.mask == "shared" else "uniform"
    return f"""\
name = "demo"

[model]
builtin = "cnn-108k"
input_shape = {_image_shape(split.input_shape)}
outputs = {_outputs(split)}
initial = "seed"
seed = {settings.seed}

[training]
steps_per_round = {steps}
batch_size = {BATCH_SIZE}
optimizer = {{ name = "sgd", learning_rate = 0.05, momentum = 0.9 }}

[pruning]
mask = "{settings.mask}"
allocation = "{allocation}"

[pruning.schedule]
kind = "polynomial"
initial_sparsity = 0.0
target_sparsity = {settings.sparsity}
begin_step = {begin * steps}
end_step = {end * steps}
frequency = {steps}
"""


def federation_toml(settings: DemoSettings, broker_url: str) -> str:
    """The file that says how it is learned. The downlink is fp32 where the uplink is, else fp16. The fleet is named, so
    that equal runs have equal cohorts."""
    return f"""\
name = "{settings.federation}"
task = "task.fedtask"
held_out = "data/held-out.npz"
state = "run"
seed = {settings.seed}

[broker]
url = "{broker_url}"

[rounds]
count = {settings.rounds}
cohort = {settings.agents}
fleet = {[agent_name(index) for index in range(settings.agents)]}
deadline_s = 300

[codec]
update_values = "{settings.values}"
model_values = "{"fp32" if settings.values == "fp32" else "fp16"}"
"""


def agent_name(index: int) -> str:
    return f"agent-{index}"


def agent_toml(settings: DemoSettings, index: int, broker_url: str) -> str:
    return f"""\
name = "{agent_name(index)}"
data = "../data/{agent_name(index)}.npz"
state = "{agent_name(index)}"
federation = "{settings.federation}"
trainer = "{settings.trainer}"

[broker]
url = "{broker_url}"
"""


def _outputs(split: SplitSummary) -> int:
    """One for each class. Raises `ConfigurationError` for data without classes."""
    if not split.classes:
        raise ConfigurationError(
            "the demo's model is a classifier, y does not hold class numbers; "
            "build a task of your own with `fedprune task build`"
        )
    return max(2, split.classes)


def _image_shape(shape: tuple[int, ...]) -> list[int]:
    """Height, width and channels of what the demo's CNN sees. Raises `ConfigurationError` for other data."""
    if len(shape) == 2:
        return [*shape, 1]
    if len(shape) == 3:
        return list(shape)
    raise ConfigurationError(
        f"the demo's model is a CNN for images, x has examples of shape {list(shape)}; "
        "build a task of your own with `fedprune task build`"
    )
