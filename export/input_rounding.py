"""The int8 input of a file beside examples of whole numbers, which it may round to others.

An int8 input has 256 codes. Where whole numbers spread over more, neighbours share a code: that harms quantities
little, and names, such as token ids, are then those of something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from fedprune.model.tensors import Inputs

_CODES = 256
"""The numbers that int8 has."""


def whole_numbers_spanned(content: bytes) -> dict[str, int]:
    """The whole numbers between the least and the greatest number that each input of the file has a code for, by its
    name in the signature; 0 if it is not int8."""
    model = schema.Model.GetRootAs(content)
    tensors, signature = model.Subgraphs(0), model.SignatureDefs(0)
    inputs = [signature.Inputs(number) for number in range(signature.InputsLength())]
    return {entry.Name().decode(): _spanned(tensors.Tensors(entry.TensorIndex())) for entry in inputs}


def _spanned(source: Any) -> int:
    if source.Type() != schema.TensorType.INT8:
        return 0
    return round((_CODES - 1) * float(source.Quantization().Scale(0))) + 1


def merges_integers(content: bytes, x: Mapping[str, Inputs]) -> bool:
    """True if all examples of one of the inputs `x`, by their names, are whole numbers, and the file's input has one
    code for several whole numbers of their range."""
    spanned = whole_numbers_spanned(content)
    return any(spanned[name] > _CODES and bool(np.all(np.rint(given) == given)) for name, given in x.items())
