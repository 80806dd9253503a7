"""What the benchmark tells of each federation, and of the speed of networks."""

from __future__ import annotations

import msgspec


class Run(msgspec.Struct, frozen=True):
    """One recipe and seed on a task; `name` tells the task too, but for images. Accuracies are fractions, means of the
    last five rounds, of this run and of the dense one with its seed; `tuned`: recipes were chosen on this seed. Files
    are of fp32, and of int8 where it is said. Bytes are those of contents, all agents' together. A training step's
    milliseconds are of processor time."""

    name: str
    task: str
    recipe: str
    seed: int
    tuned: bool
    source: str
    rounds: int
    sparsity: float
    units_removed: float
    accuracy: float
    dense_accuracy: float
    parameters: int
    bytes_tflite: int
    bytes_tflite_compressed: int
    p50_ms: float | None
    int8_accuracy: float | None
    int8_bytes_tflite: int
    int8_bytes_tflite_compressed: int
    int8_p50_ms: float | None
    train_step_ms_first: float
    train_step_ms_last: float
    bytes_up: int
    bytes_down: int

    @property
    def points_lost(self) -> float:
        """Of accuracy, to the dense run."""
        return 100 * (self.dense_accuracy - self.accuracy)


class Compared(msgspec.Struct, frozen=True):
    """One method of pruning and seed on a small task: as in `Run`."""

    method: str
    task: str
    seed: int
    rounds: int
    sparsity: float
    accuracy: float
    bytes_up: int
    bytes_down: int


class Speedup(msgspec.Struct, frozen=True):
    """The time of the whole network over that of the half, one thread: the median over pairs of blocks, and the
    quartiles around it. `measured` is `fp32` or `int8` for an inference, or `training graph` for loss and gradients of
    a batch of 32, in processor time."""

    network: str
    measured: str
    whole_ms: float
    half_ms: float
    median: float
    low: float
    high: float
    parameters: tuple[int, int]
    bytes: tuple[int, int] | None = None


class Backward(msgspec.Struct, frozen=True):
    """The processor time of a whole backward pass, or step, over that of `what` computes less: the median over pairs,
    and the quartiles around it. Milliseconds are of a step, or of five products."""

    network: str
    what: str
    whole_ms: float
    less_ms: float
    median: float
    low: float
    high: float


class Round(msgspec.Struct, frozen=True):
    """One round of the device. `step_ms` is processor time, `held_mb` the memory of the process when the round starts,
    `peak_mb` the high-water mark since then."""

    parameters: int
    step_ms: float
    held_mb: float
    peak_mb: float
    model_bytes: int
    update_bytes: int


class Shrunk(msgspec.Struct, frozen=True):
    """The rounds of a federation, on one thread, and what half of the units gained: a step of those before over a step
    of those after (each of the quickest round), and the part of a round's high-water mark that is gone: of the whole
    process, and of what a round takes beyond what the process held."""

    network: str
    idle_mb: float
    rounds: tuple[Round, ...]
    train_step_ms_first: float
    train_step_ms_last: float
    speedup: float
    peak_saved: float
    peak_beyond_held_saved: float
