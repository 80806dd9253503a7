"""The report of an export on the files it made: `exports.json`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

import msgspec

from fedprune.data.description import Normalization
from fedprune.model.metrics import metric_named

FILE = "exports.json"


class Format(StrEnum):
    """The numbers a TFLite file computes with. Inputs and outputs are float32, but for `INT8`'s, which are int8; where
    targets are normalised its output is float32 too."""

    FP32 = "fp32"
    FP16 = "fp16"
    """Weights stored as float16, computed with as float32."""
    DYNAMIC = "dynamic"
    """Large weights stored as int8, activations quantised while it runs."""
    INT8 = "int8"
    """Weights, activations, input and output are int8, by scales that representative examples gave. Weights of
    convolutions have a scale for each output channel."""
    FP32_SPARSE = "fp32-sparse"
    """fp32 in sparse encoding, which XNNPACK's sparse kernels want: what is not zero is stored, and where it is."""
    FP16_SPARSE = "fp16-sparse"

    @property
    def file(self) -> str:
        return f"{self}.tflite"


DENSE_FORMATS = (Format.FP32, Format.FP16, Format.DYNAMIC, Format.INT8)
"""Those of ordinary encoding, which are made unless others are asked for."""

_NO_KERNEL = "TFLite's runtimes have no kernel for sparse int8 weights, and do not run what the converter makes of them"
KNOWN_TO_FAIL: Mapping[str, str] = MappingProxyType({"dynamic-sparse": _NO_KERNEL, "int8-sparse": _NO_KERNEL})
"""Combinations that are refused, and why."""


class RunsOn(msgspec.Struct, frozen=True):
    """A trial of a file on a runtime of this machine; `error` is empty where it loaded and ran."""

    runtime: str
    version: str
    ok: bool
    error: str


class Sparsity(msgspec.Struct, frozen=True):
    """Fraction of exact zeros in the prunable tensors as a file stores them, in all and by name.

    None where a tensor is not recognised in the file; `overall` is None then too.
    """

    overall: float | None
    by_tensor: dict[str, float | None]


def judged_by(keras_metrics: Mapping[str, float | None]) -> list[str]:
    """The names of the metrics by which files are compared with the Keras model: the first one of each output, if it is
    a fraction and the examples define it. Empty for the loss."""
    firsts: dict[str, str] = {}
    for name in keras_metrics:
        firsts.setdefault(name.rpartition("/")[0], name)
    return [name for name in firsts.values() if keras_metrics[name] is not None and metric_named(name).larger_is_better]


class Exported(msgspec.Struct, frozen=True):
    """One file. `path` is relative to `exports.json`; `bytes_compressed` is by zstd at level 19.

    `loss` and `metrics` are the task's on the report's `examples`, `max_difference` the largest to the Keras model in
    any output of any example, of normalised targets before they are put back into their units. They are None, and
    `metrics` empty, where no runtime here runs the file. `degraded`: it is worse than the Keras model by more than a
    point of what `judged_by` names, or a twentieth of the loss. `no_smaller`: it takes as many bytes as the fp32 file,
    or more, and so gains nothing on the disk; None where fp32 was not made. `merges_integers`: the examples are whole
    numbers, as token ids are, and its int8 input has one code for several of them.
    """

    path: str
    format: Format
    bytes: int
    bytes_compressed: int
    sha256: str
    sparsity: Sparsity
    loss: float | None
    metrics: dict[str, float | None]
    max_difference: float | None
    degraded: bool
    no_smaller: bool | None
    merges_integers: bool
    runs_on: tuple[RunsOn, ...]


class Failure(msgspec.Struct, frozen=True):
    """A format that was asked for and could not be made: the converter, or what ran the file, refused it or crashed."""

    format: Format
    error: str


class Report(msgspec.Struct, frozen=True):
    """An export: the model that was exported, how the Keras model does on `examples` examples, and each file.

    `failures` are the formats of which there is no file.

    `version` is that of the checkpoint, `weights_sha256` what `weights_digest` gives for its weights, `sparsity` that
    of their prunable part, and `target_sparsity` the schedule's. `removed_units` are the numbers of units that went,
    since no output depends on them, by layer; what was exported has `parameters`. int8's scales come from
    `calibration_examples` others. Files take inputs that `normalize` was done to, and answer as labels are in data
    files. `warnings` are for people, a line each.
    """

    task: str
    run: str
    version: int
    weights_sha256: str
    sparsity: float
    target_sparsity: float
    removed_units: dict[str, int]
    parameters: int
    examples: int
    calibration_examples: int
    normalize: Normalization | None
    keras_loss: float
    keras_metrics: dict[str, float | None]
    exports: tuple[Exported, ...]
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...]
