"""The process that looks at a model, run as ``python -m export.scaffold.model_child SOURCE BASE ANSWER``.

ANSWER is the file that it writes: see `export.scaffold.model_look`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from export.describing.model import describe
from export.model_code import load_model, load_only_model
from export.scaffold.input_scale import normalizes, pixel_scale
from export.scaffold.model_look import Answer, Candidates, ModelLook, OutputLook, Refused
from fedprune.errors import FedpruneError
from fedprune.model.tensors import TensorClass, TensorTable
from fedprune.network.description import Network
from fedprune.network.layers import Activation, Rescaling


def main(source: str, base: Path, answered: Path) -> None:
    answered.write_bytes(msgspec.json.encode(_answer(source, base)))


def _answer(source: str, base: Path) -> Answer:
    try:
        if source.endswith(".py"):
            names, model = load_only_model(source, base)
            return Candidates(tuple(names)) if model is None else _look(f"{source}:{names[0]}", model)
        return _look(source, load_model(source, base))
    except FedpruneError as error:
        return Refused(str(error))


def _look(source: str, model: Any) -> ModelLook:
    network, tensors = describe(model)
    table = TensorTable(tensors)
    return ModelLook(
        source=source,
        name=network.name,
        inputs=network.inputs,
        vocabularies=network.vocabularies,
        outputs=tuple(_outputs(network)),
        parameters=table.parameters,
        prunable=table.prunable,
        frozen=sum(spec.size for spec in table.of(TensorClass.FROZEN)),
        pixel_scale=pixel_scale(network),
        normalizes=normalizes(network),
    )


def _outputs(network: Network) -> list[OutputLook]:
    shapes, first = network.shapes(), len(network.inputs)
    makers = [layer for layer, _ in network.steps()]
    names = network.output_names or ("",)
    looks = []
    for name, value in zip(names, network.outputs, strict=True):
        last = makers[value - first] if value >= first else None
        function = str(last.function) if isinstance(last, Activation) else "linear"
        looks.append(OutputLook(shapes[value], name, function, rescales=isinstance(last, Rescaling)))
    return looks


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
