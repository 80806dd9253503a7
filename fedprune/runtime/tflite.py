"""TFLite models at run time: find a runtime, load a file that may be hostile, predict with float32 in and out.

Needs no TensorFlow. The runtime is ai-edge-litert, or tflite-runtime where only that exists (32-bit Arm).
tflite-runtime does not verify a file's structure and may crash on a damaged one: hand it only what was made here
or came with a digest. ai-edge-litert verifies.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import stat
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from fedprune.errors import ExportError
from fedprune.model.tensors import Array, Inputs
from fedprune.system.quiet import without_lines

_IDENTIFIER = b"TFL3"
_MAX_MODEL_BYTES = 2**31 - 1
"""A FlatBuffer can address no more."""
_BATCH = 64
"""Examples per invocation where the model leaves the batch open: more is no faster and needs more memory."""

_DISTRIBUTIONS = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
_CHATTER = (b"INFO: Created TensorFlow Lite", b"INFO: Initialized TensorFlow Lite")


class TensorDetails(TypedDict):
    """An input or output, as the runtimes describe it. A dimension of -1 in `shape_signature` is open."""

    name: str
    index: int
    shape: NDArray[np.int32]
    shape_signature: NDArray[np.int32]
    dtype: type[np.generic]
    quantization: tuple[float, int]
    """Scale and zero point: real = scale x (stored - zero point). A scale of 0 means not quantised."""


class Interpreter(Protocol):
    """The part of the runtimes' interpreter that is used here. Wrap calls in `foreign_errors`."""

    def allocate_tensors(self) -> None: ...
    def get_input_details(self) -> list[TensorDetails]: ...
    def get_output_details(self) -> list[TensorDetails]: ...
    def get_signature_list(self) -> dict[str, Any]: ...
    def get_signature_runner(self) -> Any: ...
    def resize_tensor_input(self, input_index: int, tensor_size: Sequence[int]) -> None: ...
    def set_tensor(self, tensor_index: int, value: NDArray[Any]) -> None: ...
    def get_tensor(self, tensor_index: int) -> NDArray[Any]: ...
    def invoke(self) -> None: ...
    def reset_all_variables(self) -> None: ...


@dataclass(frozen=True)
class Runtime:
    """An installed TFLite runtime: the name and version of its distribution."""

    name: str
    version: str
    _make: Callable[..., Interpreter] = field(repr=False)

    def interpreter(
        self,
        model: Path | bytes,
        num_threads: int = 1,
        *,
        advise: bool = True,
        prepare: Callable[[Interpreter], None] = lambda _: None,
    ) -> Interpreter:
        """Load a model from a file or its bytes, and allocate its tensors. `advise`: see `foreign_errors`.

        `prepare` is called before the tensors are allocated, when inputs may still be resized.

        Raises:
            ExportError: the file cannot be read, is no TFLite model, is damaged, or needs what this runtime lacks; or
                what `prepare` raises.
        """
        name = one_line(str(model)) if isinstance(model, Path) else "model"
        quiet = without_lines(lambda line: line.startswith(_CHATTER))
        with _source(model, name) as source, quiet, foreign_errors(name, advise=advise):
            interpreter = self._make(**source, num_threads=num_threads)
            prepare(interpreter)
            interpreter.allocate_tensors()
        return interpreter


def available_runtimes() -> tuple[Runtime, ...]:
    """The runtimes that are installed and can be imported, the preferred one first."""
    found = (_find_runtime(distribution) for distribution in _DISTRIBUTIONS)
    return tuple(runtime for runtime in found if isinstance(runtime, Runtime))


def is_runtime_installed() -> bool:
    """True if there is a runtime; none is imported, so that it may still turn out not to work here."""
    return any(importlib.util.find_spec(module.partition(".")[0]) for module in _DISTRIBUTIONS.values())


def default_runtime() -> Runtime:
    """The preferred installed runtime. Raises ExportError, saying how to get one, if there is none."""
    problems = []
    for distribution in _DISTRIBUTIONS:
        found = _find_runtime(distribution)
        if isinstance(found, Runtime):
            return found
        problems.append(f"{distribution} {found}")
    raise ExportError(f"no TFLite runtime here ({'; '.join(problems)}): {how_to_get_runtime()}")


def how_to_get_runtime() -> str:
    """Tell what to install on this system, or that nothing can be."""
    return advice_for(platform.machine(), 8 * struct.calcsize("P"), sys.version_info[:2])


def advice_for(machine: str, bits: int, python: tuple[int, int]) -> str:
    """Tell what gives such a system a runtime, going by the wheels that are published, or that it is unsupported.

    Args:
        machine: as the kernel calls itself, which may have 64 bits where everything else has 32.
        bits: of Python's pointers.
    """
    if bits == 64 and machine in ("x86_64", "aarch64", "arm64"):
        return "pip install ai-edge-litert"
    if machine in ("armv7l", "armv8l", "aarch64") and python < (3, 12):
        return "pip install tflite-runtime 'numpy<2'"
    version = ".".join(map(str, python))
    return f"unsupported: use 64-bit Arm or x86 (none for {bits}-bit Python {version} on {machine})"


def predict(interpreter: Interpreter, x: Inputs) -> Array:
    """Run a model that has one input and one output over any number of examples.

    Integer inputs, but for ids, are quantised, and integer outputs made real again, by the file's own scale and zero
    point. A model with a fixed batch is fed full batches, the last one filled up with zeros; an open batch is resized.

    Args:
        x: float32, (examples, ...), as a float model takes it, NHWC for images; or int32, token ids.

    Returns:
        float32, (examples, ...).

    Raises:
        ExportError: the model has several inputs or outputs, another input shape, or fails to run.
    """
    source = _only(interpreter.get_input_details(), "input")
    sink = _only(interpreter.get_output_details(), "output")
    return _predict(interpreter, [source], [sink], [x])[0]


def predict_by_names(interpreter: Interpreter, x: Mapping[str, Inputs], outputs: Sequence[str]) -> list[Array]:
    """Run a model whose inputs and `outputs` have these names in its signature: see `predict`."""
    with foreign_errors("model"):
        has_signature = bool(interpreter.get_signature_list())
    if not has_signature:
        raise ExportError(
            "the file lacks the names of its inputs and outputs: the converter leaves them out where it cannot write "
            "its temporary files; is there room for them?"
        )
    with foreign_errors("model"):
        runner = interpreter.get_signature_runner()
        sources, sinks = runner.get_input_details(), runner.get_output_details()
        del runner  # while it lives, the interpreter refuses much
    if sources.keys() != x.keys() or not sinks.keys() >= set(outputs):
        raise ExportError(
            f"the model takes {one_line(', '.join(sources))} and returns {one_line(', '.join(sinks))}, not "
            f"{', '.join(x)} and {', '.join(outputs)}"
        )
    return _predict(interpreter, [sources[name] for name in x], [sinks[name] for name in outputs], list(x.values()))


def _predict(
    interpreter: Interpreter, sources: Sequence[TensorDetails], sinks: Sequence[TensorDetails], x: Sequence[Inputs]
) -> list[Array]:
    batch, count = min(_fit_batch(interpreter, *pair) for pair in zip(sources, x, strict=True)), len(x[0])
    answers: list[list[Array]] = [[] for _ in sinks]
    for start in range(0, max(count, 1), batch):
        with foreign_errors("model"):
            for source, given in zip(sources, x, strict=True):
                chunk = given[start : start + batch]
                examples = np.zeros((batch, *given.shape[1:]), given.dtype)
                examples[: len(chunk)] = chunk
                interpreter.set_tensor(source["index"], _quantise(examples, source))
            interpreter.reset_all_variables()  # a fused LSTM would go on where the last example ended
            interpreter.invoke()
            found = [interpreter.get_tensor(sink["index"]) for sink in sinks]
        for answer, sink, parts in zip(found, sinks, answers, strict=True):
            if answer.shape[:1] != (batch,):
                raise ExportError(
                    f"the model answers {batch} examples with shape {list(answer.shape)}: batch comes first"
                )
            parts.append(_dequantise(answer, sink))
    return [np.concatenate(parts)[:count] for parts in answers]


@contextmanager
def foreign_errors(model: str, *, advise: bool = True) -> Iterator[None]:
    """Turn whatever a runtime raises about `model` (a path, or what to call it) into an ExportError of one line.

    `advise`: it says how a converted model is mended.
    """
    try:
        yield
    except ExportError as error:
        raise ExportError(f"{one_line(model)}: {error}") from error
    except Exception as error:
        reason, advice = _explain(str(error))
        raise ExportError(f"{one_line(model)}: {reason}{f': {advice}' if advise and advice else ''}") from error


def one_line(message: str) -> str:
    """The message on one line, without what a terminal would obey, at most 200 characters."""
    words = " ".join(message.split())
    return "".join(sign if sign.isprintable() else "?" for sign in words)[:200] or "no reason given"


def _find_runtime(distribution: str) -> Runtime | str:
    """The runtime, or why it cannot be used."""
    from importlib import metadata  # what only asks whether a runtime is installed does without

    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "is not installed"
    if distribution == "tflite-runtime" and int(np.__version__.split(".")[0]) >= 2:
        return f"{version} needs numpy<2, not {np.__version__}"
    try:
        module = importlib.import_module(_DISTRIBUTIONS[distribution])
    except ImportError as error:
        return f"{version} cannot be imported: {one_line(str(error))}"
    return Runtime(distribution, version, module.Interpreter)


@contextmanager
def _source(model: Path | bytes, name: str) -> Iterator[dict[str, str | bytes]]:
    """The arguments from which a runtime loads `model`, once it was seen to be a TFLite model.

    A file is opened here and goes by the name of its descriptor: runtimes take paths for UTF-8, which not all are.
    """
    if isinstance(model, bytes):
        _check_identifier(model[:8], len(model), name)
        yield {"model_content": model}
        return
    try:
        if not stat.S_ISREG(model.stat().st_mode):
            raise ExportError(f"{name} is not a file: give a .tflite file")
        file = model.open("rb")
    except OSError as error:
        raise ExportError(f"{name}: {error.strerror}; give a .tflite file that can be read") from error
    with file:
        _check_identifier(file.read(8), os.fstat(file.fileno()).st_size, name)
        yield {"model_path": f"/proc/self/fd/{file.fileno()}"}


def _check_identifier(head: bytes, size: int, name: str) -> None:
    """Refuse what is not a TFLite model before a runtime sees it."""
    if head[4:] != _IDENTIFIER:
        raise ExportError(f"{name} is not a TFLite model: give a .tflite file, as `fedprune export` writes them")
    if size > _MAX_MODEL_BYTES:
        raise ExportError(f"{name} has {size} bytes: a TFLite model has less than 2 GiB")


def _explain(message: str) -> tuple[str, str]:
    """Say what is wrong, and how a converted model is mended if that is known."""
    builtin = "convert the model with TFLite's builtin ops only"
    if op := re.search(r"opcode '(\w+)' version '(\d+)'", message):
        return (
            f"this runtime has no {op[1]} version {op[2]}",
            "convert with an older TensorFlow, or take a newer runtime",
        )
    if op := re.search(r"custom op: (\w+)", message):
        return f"this runtime has no op {op[1]}", builtin
    if "Select TensorFlow op" in message:
        return "this runtime has none of TensorFlow's own ops", builtin
    if "valid Flatbuffer" in message:
        return "the file is truncated or damaged", "copy or export it again"
    return f"the runtime cannot run this model: {one_line(message)}", ""


def _only(details: list[TensorDetails], what: str) -> TensorDetails:
    if len(details) != 1:
        raise ExportError(f"the model has {len(details)} {what}s, not one")
    return details[0]


def _fit_batch(interpreter: Interpreter, source: TensorDetails, x: Inputs) -> int:
    """Make the input fit examples like those of `x`; how many it takes at once."""
    signature = [int(size) for size in source["shape_signature"]]
    batch = signature[0] if signature and signature[0] != -1 else min(max(len(x), 1), _BATCH)
    shape = (batch, *x.shape[1:])
    fits = len(signature) == len(shape) and all(size in (-1, want) for size, want in zip(signature, shape, strict=True))
    if not fits or batch < 1:
        raise ExportError(f"the model takes inputs of shape {signature[1:]}, not {list(x.shape[1:])}")
    if tuple(source["shape"]) != shape:
        with foreign_errors("model"):
            interpreter.resize_tensor_input(source["index"], shape)
            interpreter.allocate_tensors()
    return batch


def _quantise(x: Inputs, details: TensorDetails) -> NDArray[Any]:
    if details["dtype"] is x.dtype.type:
        return x
    scale, zero_point, bounds = _scale_of(details)
    steps = np.rint(x / np.float32(scale) + np.float32(zero_point))
    stored: NDArray[Any] = steps.clip(bounds.min, bounds.max).astype(details["dtype"])
    return stored


def _dequantise(stored: NDArray[Any], details: TensorDetails) -> Array:
    if details["dtype"] is np.float32:
        return np.asarray(stored, np.float32)
    scale, zero_point, _ = _scale_of(details)
    return (stored.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def _scale_of(details: TensorDetails) -> tuple[float, int, np.iinfo[Any]]:
    scale, zero_point = details["quantization"]
    if not np.issubdtype(details["dtype"], np.integer) or not scale > 0:
        raise ExportError(f"tensor {one_line(details['name'])} is neither float32 nor quantised")
    return scale, zero_point, np.iinfo(details["dtype"])
