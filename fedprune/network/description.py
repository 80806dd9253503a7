"""A network as data: its layers, and the calls that join them.

Values are numbered: first the network's inputs, then what each call returns. A call names values before its own, so
that no description has a cycle, and reading the calls in order is running the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

import msgspec
import numpy as np

from fedprune.errors import TaskError, TaskOfOtherVersion
from fedprune.model.forms import MAX_ENDS, MAX_NAME, NAME_PATTERN, InputForm, array_names
from fedprune.model.tensors import TensorClass, TensorTable
from fedprune.network.augmentation import MAX_AUGMENTATION, AnyAugmentation
from fedprune.network.layers import MAX_SIZE, AnyLayer, BatchNormalization, Embedding, IdMask, Shape, StepMask
from fedprune.network.masks import mask_values

VERSION = 1
MAX_BYTES = 2**22
"""Bytes of a description."""
MAX_CALLS = 2**12
"""Layers, and calls of them."""
MAX_INPUTS = 2 * MAX_CALLS
"""Inputs of all calls together."""
MAX_VALUES = 2**28
"""Scalars of one example in all values together."""
MAX_RANK = 4
"""Axes of a value, without the batch: with it they are five, and tflite-runtime 2.14 slices and multiplies no more."""

_Size = Annotated[int, msgspec.Meta(ge=1, le=MAX_SIZE)]
_Shape = Annotated[tuple[_Size, ...], msgspec.Meta(max_length=MAX_RANK)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=2 * MAX_CALLS)]
_Factor = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
_Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME, pattern=NAME_PATTERN)]
_Names = Annotated[tuple[_Name, ...], msgspec.Meta(max_length=MAX_ENDS)]


class Call(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A layer, by its number, called with values."""

    layer: _Number
    inputs: Annotated[tuple[_Number, ...], msgspec.Meta(min_length=1, max_length=MAX_CALLS)]


class Penalty(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tensor adds to the loss: l1 sum |w| + l2 sum w^2 (Keras' L1, L2 and L1L2)."""

    tensor: str
    l1: _Factor = 0.0
    l2: _Factor = 0.0


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The member ``network.json`` of a bundle. `inputs` are shapes without the batch, `outputs` numbers of values.

    `output_masks` are, where there are any, the values that say which places of each output count: those that are 0 are
    padding, which is neither learned nor judged. None: all of an output's places count.
    Where there are several inputs or outputs they have names, which tell them apart; a single one has none.
    `augmentation` is what examples of the only input go through before anything else in training, and in nothing but
    training.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    inputs: Annotated[tuple[_Shape, ...], msgspec.Meta(min_length=1, max_length=MAX_ENDS)]
    layers: Annotated[tuple[AnyLayer, ...], msgspec.Meta(max_length=MAX_CALLS)]
    calls: Annotated[tuple[Call, ...], msgspec.Meta(max_length=MAX_CALLS)]
    outputs: Annotated[tuple[_Number, ...], msgspec.Meta(min_length=1, max_length=MAX_ENDS)]
    penalties: Annotated[tuple[Penalty, ...], msgspec.Meta(max_length=2 * MAX_CALLS)] = ()
    augmentation: Annotated[tuple[AnyAugmentation, ...], msgspec.Meta(max_length=MAX_AUGMENTATION)] = ()
    input_names: _Names = ()
    output_names: _Names = ()
    output_masks: Annotated[tuple[_Number | None, ...], msgspec.Meta(max_length=MAX_ENDS)] = ()
    version: int = VERSION

    @property
    def vocabularies(self) -> tuple[int | None, ...]:
        """The number of ids, from 0, that each input may hold; None where it holds numbers."""
        sizes: list[list[int]] = [[] for _ in self.inputs]
        for layer, call in self.steps():
            for value in call.inputs:
                if isinstance(layer, Embedding) and value < len(sizes):
                    sizes[value].append(layer.vocabulary)
        return tuple(min(each, default=None) for each in sizes)

    @property
    def paddings(self) -> tuple[float | None, ...]:
        """What fills each input where a mask leaves it out, a number or an id; None where none does."""
        found: list[float | None] = [None] * len(self.inputs)
        for layer, call in self.steps():
            for value in call.inputs:
                if isinstance(layer, IdMask | StepMask) and value < len(found):
                    found[value] = layer.padding if isinstance(layer, StepMask) else 0.0
        return tuple(found)

    @property
    def input_dtypes(self) -> tuple[type[np.generic], ...]:
        """Of each input: float32, or int32 for ids."""
        return tuple(np.float32 if vocabulary is None else np.int32 for vocabulary in self.vocabularies)

    @property
    def input_forms(self) -> tuple[InputForm, ...]:
        """The form of each input, and what its array in data files is called."""
        arrays = array_names("x", self.input_names)
        return tuple(map(InputForm, arrays, self.inputs, self.vocabularies))

    def shapes(self) -> tuple[Shape, ...]:
        """The shape of each value. Raises `TaskError`, naming the layer, where none fits."""
        if sum(len(call.inputs) for call in self.calls) > MAX_INPUTS:
            raise TaskError(f"network {self.name[:60]!r}: its calls have more than {MAX_INPUTS} inputs")
        self._check_ends()
        for augmentation in self.augmentation:
            augmentation.output(*self.inputs)
            if self.vocabularies != (None,):
                augmentation.refuse("augments images, and the input is ids")
        shapes: list[Shape] = list(self.inputs)
        ids = {value for value, vocabulary in enumerate(self.vocabularies) if vocabulary is not None}
        for layer, call in self.steps():
            if any(value >= len(shapes) for value in call.inputs):
                layer.refuse("takes what comes later")
            shape = layer.output(*(shapes[value] for value in call.inputs))
            if len(shape) > MAX_RANK or math.prod(shape) > MAX_SIZE:
                layer.refuse(f"makes the shape {list(shape)}, larger than {MAX_SIZE} scalars or {MAX_RANK} axes")
            if ids.isdisjoint(call.inputs) == isinstance(layer, Embedding | IdMask):
                layer.refuse("takes ids as numbers, or numbers as ids; give ids to Embedding layers and masks alone")
            shapes.append(shape)
        if any(value >= len(shapes) for value in self.outputs):
            raise TaskError(f"network {self.name[:60]!r}: an output is a value that nothing makes")
        if not ids.isdisjoint(self.outputs):
            raise TaskError(f"network {self.name[:60]!r}: an output is the ids that go in, which nothing can learn")
        self._check_output_masks(shapes)
        return tuple(shapes)

    def steps(self) -> Iterator[tuple[AnyLayer, Call]]:
        """Each call with its layer. Raises `TaskError` for a layer that is not there."""
        for call in self.calls:
            if call.layer >= len(self.layers):
                raise TaskError(f"network {self.name[:60]!r}: layer {call.layer} is called, of {len(self.layers)}")
            yield self.layers[call.layer], call

    def check(self, table: TensorTable) -> None:
        """Raise `TaskError` unless the shapes fit and the layers hold exactly the tensors of `table`, each once."""
        shapes = self.shapes()
        if sum(map(math.prod, shapes)) > MAX_VALUES:
            raise TaskError(f"network {self.name[:60]!r}: more than {MAX_VALUES} scalars an example; make it smaller")
        owners = self._owners(shapes)
        found = {name: shape for name, (shape, _) in owners.items()}
        expected = {spec.name: spec.shape for spec in table}
        if differing := [name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)]:
            name = min(differing)
            raise TaskError(
                f"network {self.name[:60]!r}: tensor {name[:80]!r} is {_shown(expected.get(name))} in the table, "
                f"and {_shown(found.get(name))} in the layers"
            )
        kinds = {spec.name: spec.kind for spec in table}
        for layer, call in self.steps():
            held = layer.tensors(*(shapes[value] for value in call.inputs))
            if len({kinds[name] is TensorClass.FROZEN for name in held}) == 2:
                layer.refuse("is frozen in part; freeze the whole layer, or none of it")
        for spec in table:
            moves = _moves(owners[spec.name][1], spec.name)
            if spec.kind is TensorClass.INTEGER or (spec.kind is TensorClass.STATISTICS and not moves):
                raise TaskError(f"network {self.name[:60]!r}: tensor {spec.name[:80]!r} cannot be {spec.kind}")
            if moves and spec.kind not in (TensorClass.STATISTICS, TensorClass.FROZEN):
                raise TaskError(
                    f"network {self.name[:60]!r}: tensor {spec.name[:80]!r} is a statistic, not {spec.kind}"
                )
        penalised = [penalty.tensor for penalty in self.penalties]
        learned = {spec.name for spec in table if not _moves(owners[spec.name][1], spec.name)}
        if foreign := [name for name in penalised if name not in learned or penalised.count(name) > 1]:
            raise TaskError(
                f"network {self.name[:60]!r}: a penalty of {foreign[0][:80]!r}, which has another or is no weight"
            )

    def _check_ends(self) -> None:
        """Raise `TaskError` unless inputs and outputs can be told apart, and each input is used."""
        for what, ends, names in (
            ("input", self.inputs, self.input_names),
            ("output", self.outputs, self.output_names),
        ):
            if len(names) != (len(ends) if len(ends) > 1 else 0) or len(set(names)) != len(names):
                raise TaskError(f"network {self.name[:60]!r}: several {what}s need a name each, a single one has none")
        used = {value for call in self.calls for value in call.inputs} | set(self.outputs)
        if unused := [name for value, name in enumerate(self.input_names) if value not in used]:
            raise TaskError(f"network {self.name[:60]!r}: nothing takes input {unused[0]!r}; leave it out")

    def _check_output_masks(self, shapes: list[Shape]) -> None:
        """Raise `TaskError` unless each is a mask, of the places of its output."""
        if not self.output_masks:
            return
        if len(self.output_masks) != len(self.outputs):
            raise TaskError(f"network {self.name[:60]!r}: each output needs a mask or none, if any has one")
        masks = mask_values(len(self.inputs), ((layer, call.inputs) for layer, call in self.steps()))
        for output, mask in zip(self.outputs, self.output_masks, strict=True):
            if mask is not None and (mask not in masks or shapes[mask] != shapes[output][:-1]):
                raise TaskError(f"network {self.name[:60]!r}: an output's mask is none, or not of the output's places")

    def _owners(self, shapes: tuple[Shape, ...]) -> dict[str, tuple[Shape, AnyLayer]]:
        """Each tensor that a layer must have, with its shape."""
        owners: dict[str, tuple[Shape, AnyLayer]] = {}
        names = {layer.name for layer in self.layers}
        called = {call.layer for call in self.calls}
        if len(names) != len(self.layers) or len(called) != len(self.layers):
            raise TaskError(f"network {self.name[:60]!r}: two layers have one name, or one is never called")
        for layer, call in self.steps():
            for name, shape in layer.tensors(*(shapes[value] for value in call.inputs)).items():
                if owners.setdefault(name, (shape, layer)) != (shape, layer):
                    layer.refuse(f"holds tensor {name[:80]!r}, which has another shape or another layer elsewhere")
        return owners


def parse_network(blob: bytes) -> Network:
    """A description from its JSON. Raises `TaskError` if it is none that this version knows; it is not yet checked."""
    try:
        if len(blob) > MAX_BYTES:
            raise TaskError(f"network.json: larger than {MAX_BYTES} bytes; build the task again")
        network = msgspec.json.decode(blob, type=Network)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        reason = "".join(sign if sign.isprintable() else "?" for sign in str(error))[:200]  # which cites the text
        raise TaskError(
            f"network.json: {reason}; upgrade fedprune, or build the task with this version of fedprune"
        ) from error
    if network.version != VERSION:
        raise TaskOfOtherVersion(f"network.json: version {network.version}, this fedprune reads {VERSION}; upgrade it")
    return network


def pack_network(network: Network) -> bytes:
    """The JSON that `parse_network` reads."""
    return msgspec.json.format(msgspec.json.encode(network), indent=1)


def _moves(layer: AnyLayer, tensor: str) -> bool:
    return isinstance(layer, BatchNormalization) and tensor in (layer.mean, layer.variance)


def _shown(shape: Shape | None) -> str:
    return "not there" if shape is None else str(list(shape))
