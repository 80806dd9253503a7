"""The forms of a task: its network as it was built, and without units that have gone for good.

A form is known by the units that are left, a bit for each unit of the network as it was built; all else follows: the
smaller description, the smaller tensor table, and where each of its entries was. Masks and scores are computed on whole
tensors, so that they are those of a federation whose network keeps its shape. What belongs to another form is brought
to this one by putting its numbers back to where they were, zero elsewhere, and cutting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedprune.errors import ProtocolError
from fedprune.model.tensors import Mask, Weights, sparsity
from fedprune.network.description import Network
from fedprune.slimming.groups import DependencyGroups, dependency_groups
from fedprune.slimming.slim import Smaller, without_units
from fedprune.slimming.unit_masks import units_left

if TYPE_CHECKING:
    from fedprune.task.bundle import Task

_REMEMBERED = 2
"""Forms that are remembered: a gateway works with the present one and with the next."""

Units = NDArray[np.bool_]
"""For each unit of the network as it was built `[units]`, True if it is left."""


class Form:
    """One form of a task. `task` has its tensors and `network` its layers; the training and pruning are the same.

    `units` is None, and `name` empty, for a task whose network keeps its shape. `name` is what a whole model's bytes
    begin with: the bits of `units`, the first one lowest, filled up with zeros.
    """

    def __init__(self, whole_task: Task, network: Network, units: Units | None, smaller: Smaller | None) -> None:
        """`smaller` is what is left of the network; None if that is all of it."""
        self._whole_table = whole_task.table
        self._smaller = smaller
        self.units = units
        self.name = b"" if units is None else np.packbits(units, bitorder="little").tobytes()
        self.network = network if smaller is None else smaller.network
        self.task = whole_task if smaller is None else msgspec.structs.replace(whole_task, tensors=tuple(smaller.table))

    @property
    def is_whole(self) -> bool:
        return self._smaller is None

    def is_as(self, other: Form) -> bool:
        """True if it has the units of another form of the task: forms are forgotten and made again."""
        return self.name == other.name

    def cut(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """What is left of an array that has the whole shape of tensor `name`."""
        return array if self._smaller is None else self._smaller.carry(name, array)

    def cut_all(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {name: self.cut(name, array) for name, array in tensors.items()}

    def cut_parts(self, state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What is left of what goes with tensors, by `part/tensor`, as a server optimizer's state does."""
        return {key: self.cut(key.partition("/")[2], array) for key, array in state.items()}

    def expand(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """An array of this form's tensor `name` in its whole shape, zero (False) where nothing is left."""
        places = {} if self._smaller is None else self._smaller.places.get(name, {})
        if not places:
            return array
        shape = self._shapes[name]
        whole = np.zeros(shape, array.dtype)
        whole[np.ix_(*(places.get(axis, np.arange(size)) for axis, size in enumerate(shape)))] = array
        return whole

    def expanded(self, tensors: Mapping[str, NDArray[Any]]) -> Mapping[str, Any]:
        """Tensors of this form in their whole shapes, each made when it is asked for."""
        return tensors if self._smaller is None else _Expanded(self, tensors)

    def carry(self, former: Form, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """An array of the `former` form's tensor `name` in this form: a mask, a residual, a slot. What was not there is
        zero."""
        return array if self.is_as(former) else self.cut(name, former.expand(name, array))

    def carry_all(self, former: Form, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {name: self.carry(former, name, array) for name, array in tensors.items()}

    def carried(self, former: Form, tensors: Weights) -> Weights:
        """`carry_all`, but the tensors themselves where the form stays: they may be made when they are asked for."""
        return tensors if self.is_as(former) else self.carry_all(former, tensors)

    def carry_parts(self, former: Form, state: Weights) -> Weights:
        """What goes with tensors of the `former` form, by `part/tensor`, in this form; the parts themselves where the
        form stays."""
        if self.is_as(former):
            return state
        return {key: self.carry(former, key.partition("/")[2], array) for key, array in state.items()}

    def sparsity(self, weights: Weights) -> float:
        """The fraction of the whole network's prunable scalars that are zero or gone, in [0, 1)."""
        found = sparsity(weights, self.task.table)
        if self._smaller is None:
            return found
        return 1.0 - (1.0 - found) * self.task.table.prunable / self._whole_table.prunable

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {spec.name: spec.shape for spec in self._whole_table}


class _Expanded(Mapping[str, NDArray[Any]]):
    def __init__(self, form: Form, tensors: Mapping[str, NDArray[Any]]) -> None:
        self._form = form
        self._tensors = tensors

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._form.expand(name, self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class Forms:
    """All forms of a task, which is `whole` as it was built; the last ones are remembered."""

    def __init__(self, task: Task, network: Network) -> None:
        self._task, self._network = task, network
        self._remembered: list[Form] = []

    @cached_property
    def whole(self) -> Form:
        units = np.ones(self.groups.count, np.bool_) if self.can_change else None
        return Form(self._task, self._network, units, None)

    def drawn_in(self, form: Form) -> dict[str, NDArray[np.float32]] | None:
        """The weights before round 0, as all sides draw them, in a form; None of a pretrained start."""
        drawn = self._task.drawn_weights()
        return None if drawn is None else form.cut_all(drawn)

    @cached_property
    def can_change(self) -> bool:
        """True if units of the network can go while it is trained."""
        units = self._task.pruning.units
        return units is not None and units.slim and self.groups.count > 0

    def of(self, units: Units | None) -> Form:
        """The form with these units; the whole one of None. Raises `ProtocolError` if there is none."""
        if units is None:
            return self.whole
        if self.whole.units is None:
            raise ProtocolError(f"task {self._task.name!r}: a model has lost units, and the task's keep theirs")
        for form in (self.whole, *self._remembered):
            if form.units is not None and np.array_equal(form.units, units):
                return form
        form = self._made(units)
        self._remembered = [form, *self._remembered][:_REMEMBERED]
        return form

    def named(self, name: bytes) -> Form:
        """The form of this name. Raises `ProtocolError` if there is none."""
        count = 0 if self.whole.units is None else len(self.whole.units)
        bits = np.unpackbits(np.frombuffer(name, np.uint8), bitorder="little").view(np.bool_)
        if len(name) != len(self.whole.name) or bits[count:].any():
            raise ProtocolError("the name of the model's form is not one of this task's")
        return self.of(bits[:count] if count else None)

    def read(self, blob: bytes) -> tuple[Form, bytes]:
        """The form that a whole model's bytes begin with, and the rest. Raises `ProtocolError` if they do not."""
        length = len(self.whole.name)
        return self.named(blob[:length]), blob[length:]

    def after(self, form: Form, mask: Mask, version: int, after: int) -> Form:
        """The form of the version `after`, of which the mask `[whole shapes]` is, when `form` is that of `version`; of
        the first version both are 0. Units that went leave the network where its stage grows."""
        pruning, steps = self._task.pruning.units, self._task.training.clock_steps_per_round
        if form.units is None or pruning is None:
            return form
        before = 0 if version == after else pruning.stage(version * steps)
        if pruning.stage(after * steps) <= before:
            return form
        return self.of(units_left(self.groups, mask, form.units))

    def _made(self, units: Units) -> Form:
        if len(units) != self.groups.count:
            raise ProtocolError(f"task {self._task.name!r}: the model's form is of {len(units)} units")
        try:
            smaller = without_units(self.groups, units)
        except ValueError as error:
            raise ProtocolError(f"task {self._task.name!r}: the model's form: {error}") from error
        return Form(self._task, self._network, units, smaller)

    @cached_property
    def groups(self) -> DependencyGroups:
        """The units of the network as it was built."""
        return dependency_groups(self._network, self._task.table)
