"""The shapes of a model's inputs: those that were asked for, those that the model takes, those that are measured.

They are written as in TFLite's benchmark_model: shapes in the inputs' order between colons, sizes between commas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedprune.errors import ExportError
from fedprune.runtime.tflite import Interpreter, TensorDetails, one_line

MAX_INPUT_ELEMENTS = 2**26
"""More than any model for a small device takes."""

Shape = tuple[int, ...]
"""Of one input, its batch included."""

_OPEN = -1
"""A dimension in TFLite's `shape_signature` that whoever runs the model chooses."""


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """Raises ValueError if `text` is not of the form.

    Example:
        >>> parse_shapes("1,224,224,3:1,20")
        ((1, 224, 224, 3), (1, 20))
    """
    shapes = tuple(tuple(int(size) for size in shape.split(",")) for shape in text.split(":"))
    if min(min(shape) for shape in shapes) < 1 or max(map(math.prod, shapes)) > MAX_INPUT_ELEMENTS:
        raise ValueError(f"sizes are at least 1, and an input has at most {MAX_INPUT_ELEMENTS} numbers")
    return shapes


def format_shapes(shapes: Sequence[Sequence[int]]) -> str:
    """The text that `parse_shapes` reads."""
    return ":".join(",".join(map(str, shape)) for shape in shapes)


def resize_inputs(interpreter: Interpreter, wanted: Sequence[Shape]) -> None:
    """Give a model's inputs the shapes `wanted`, before its tensors are allocated.

    Without any the model's own are kept. Those must be known, but for the first dimension of several: it is the batch,
    and an open one is 1.

    Raises:
        ExportError: a dimension is open that must be known, or the model takes no such shapes.
    """
    inputs = interpreter.get_input_details()
    signatures = [_signature(details) for details in inputs]
    if not wanted:
        if any(_OPEN in (signature[1:] or signature) for signature in signatures):
            raise ExportError(
                f"the model leaves sizes of its input open: give --input_layer_shape {_template(signatures)} with a "
                "number for each ?"
            )
        return
    if len(wanted) != len(inputs) or not all(map(_fits, signatures, wanted)):
        raise ExportError(
            f"the model takes --input_layer_shape {_template(signatures)}, not {format_shapes(wanted)}; ? is any number"
        )
    for details, shape in zip(inputs, wanted, strict=True):
        interpreter.resize_tensor_input(details["index"], shape)


def _signature(details: TensorDetails) -> Shape:
    return tuple(int(size) for size in details["shape_signature"])


def _fits(signature: Shape, shape: Shape) -> bool:
    return len(signature) == len(shape) and all(
        known in (_OPEN, size) for known, size in zip(signature, shape, strict=True)
    )


def _template(signatures: Sequence[Shape]) -> str:
    return one_line(format_shapes(signatures).replace(str(_OPEN), "?"))
