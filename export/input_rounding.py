"""The int8 input of a file beside examples of whole numbers, which it may round to others.

An int8 input has 256 codes. Where whole numbers spread over more, neighbours share a code: that harms quantities
little, and names, such as token ids, are then those of something else.
"""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from fedprune.model.tensors import Inputs

_CODES = 256
"""The numbers that int8 has."""


def whole_numbers_spanned(content: bytes) -> int:
    """The whole numbers between the least and the greatest number that the file's input has a code for; 0 if its input
    is float32."""
    graph = schema.Model.GetRootAs(content).Subgraphs(0)
    source = graph.Tensors(graph.Inputs(0))
    if source.Type() != schema.TensorType.INT8:
        return 0
    return round((_CODES - 1) * float(source.Quantization().Scale(0))) + 1


def merges_integers(content: bytes, x: Inputs) -> bool:
    """True if all of `x`, examples as the model takes them, are whole numbers, and the file's input has one code for
    several whole numbers of their range."""
    return whole_numbers_spanned(content) > _CODES and bool(np.all(np.rint(x) == x))
