"""A description under way: what readers of Keras layers add layers and calls to. Values go by their numbers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from fedprune.keras.front import Step, augmentation_of
from fedprune.keras.refusal import refuse
from fedprune.keras.stack import keras
from fedprune.network.augmentation import AnyAugmentation, Augmentation
from fedprune.network.description import Call, Network, Penalty
from fedprune.network.layers import AnyLayer, Shape

_Made = TypeVar("_Made", bound=AnyLayer | AnyAugmentation)


class Draft:
    """`inputs` are shapes by names, `tensors` the names of rows of the tensor table by their variables' references."""

    def __init__(self, name: str, inputs: Mapping[str, Shape], tensors: Mapping[Any, str]) -> None:
        self._name = name
        self._inputs = dict(inputs)
        self._tensors = tensors
        self._layers: list[AnyLayer | AnyAugmentation] = []
        self._numbers: dict[Hashable, int] = {}
        self._names: set[str] = set()
        self._calls: list[Call] = []
        self._shapes: list[Shape] = list(inputs.values())
        self._penalties: dict[str, Penalty] = {}

    def shape(self, value: int) -> Shape:
        """The shape of a value, without the batch."""
        return self._shapes[value]

    def is_input(self, value: int) -> bool:
        """True for a value that goes into the network."""
        return value < len(self._inputs)

    def add(self, owner: Any, make: Callable[..., _Made], *inputs: int, part: str = "", **attributes: Any) -> int:
        """The value that a layer makes of `inputs`.

        `make` is the layer's kind. It is a layer of its own for each `owner`, a Keras layer, and its attributes: a
        Keras layer that is called twice stays one. `part` tells apart what one Keras layer becomes.
        Raises `LayerError` if the layer cannot take the shapes.
        """
        name = f"{owner.name}.{part}" if part else owner.name
        layer = make(name=name, **attributes)
        key = (id(owner), layer)
        if key not in self._numbers:
            self._numbers[key] = len(self._layers)
            self._layers.append(msgspec.structs.replace(layer, name=self._unique(name)))
        number = self._numbers[key]
        self._shapes.append(self._layers[number].output(*map(self.shape, inputs)))
        self._calls.append(Call(number, inputs))
        return len(self._shapes) - 1

    def tensor(self, layer: Any, attribute: str) -> str:
        """The name of a Keras layer's variable. Its regularizer counts once, however often the layer is called."""
        name, regularizer = self._tensors[getattr(layer, attribute).ref()], _regularizer(layer, attribute)
        if regularizer is not None:
            self._penalties[name] = _penalty(layer, name, regularizer)
        return name

    def bias(self, layer: Any) -> str | None:
        """The name of a Keras layer's bias, if it has one."""
        return self.tensor(layer, "bias") if layer.use_bias else None

    def network(self, outputs: Mapping[str, int], masks: Sequence[int | None]) -> Network:
        """The description of what `outputs`, values by names, and their `masks` depend on. Augmentation leaves the
        calls: a value is what it augments.

        Raises `LayerError` for augmentation that is not at the front.
        """
        first = len(self._inputs)
        steps: list[Step] = []
        layers: dict[int, AnyLayer] = {}
        calls: list[Call] = []
        values = {value: value for value in range(first)}
        masked = [mask for mask in masks if mask is not None]
        for number in self._needed([*outputs.values(), *masked]):
            call = self._calls[number]
            layer = self._layers[call.layer]
            steps.append((layer, call.inputs, first + number))
            if isinstance(layer, Augmentation):
                values[first + number] = values[call.inputs[0]]
                continue
            layers[call.layer] = layer
            values[first + number] = first + len(calls)
            calls.append(Call(call.layer, tuple(values[value] for value in call.inputs)))
        numbers = {layer: number for number, layer in enumerate(sorted(layers))}
        return Network(
            name=self._name,
            inputs=tuple(self._inputs.values()),
            layers=tuple(layers[layer] for layer in sorted(layers)),
            calls=tuple(Call(numbers[call.layer], call.inputs) for call in calls),
            outputs=tuple(values[value] for value in outputs.values()),
            penalties=tuple(self._penalties.values()),
            augmentation=augmentation_of(steps, tuple(outputs.values())),
            input_names=tuple(self._inputs) if first > 1 else (),
            output_names=tuple(outputs) if len(outputs) > 1 else (),
            output_masks=tuple(None if mask is None else values[mask] for mask in masks) if masked else (),
        )

    def _needed(self, outputs: Iterable[int]) -> list[int]:
        """The calls that the values `outputs` depend on, in order; inputs come before what they make."""
        needed, pending = set[int](), list(outputs)
        while pending:
            call = pending.pop() - len(self._inputs)
            if call >= 0 and call not in needed:
                needed.add(call)
                pending.extend(self._calls[call].inputs)
        return sorted(needed)

    def _unique(self, name: str) -> str:
        """`name`, numbered if another layer has it: those of nested models may."""
        found, number = name, 0
        while found in self._names:
            number += 1
            found = f"{name}_{number}"
        self._names.add(found)
        return found


def _regularizer(layer: Any, attribute: str) -> Any:
    """Keras calls the regularizer of ``depthwise_kernel`` ``depthwise_regularizer``."""
    names = (f"{attribute}_regularizer", f"{attribute.removesuffix('_kernel')}_regularizer")
    return next((found for name in names if (found := getattr(layer, name, None)) is not None), None)


def _penalty(layer: Any, tensor: str, regularizer: Any) -> Penalty:
    if type(regularizer) not in (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2):
        refuse(layer, f"regularizer {type(regularizer).__name__}", "L1, L2 or L1L2")
    factors = {name: float(factor) for name, factor in regularizer.get_config().items() if name in ("l1", "l2")}
    return Penalty(tensor, **factors)
