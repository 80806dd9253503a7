"""The task bundle: what a federation learns, in one file that is made once and travels by its digest.

A bundle is a zip archive (stored, fixed timestamps, so that equal tasks have equal bytes) of

==========================  =========================================================================
``task.json``               the `Task`: tensor table, training, pruning, and the digest of each other member
``network.json``            the description of the network: see `fedprune.network.description`
``graphs.json``             if it is there, devices can train without TensorFlow: the digests of the training graphs
                            that they write, and what finds wrong kernels, see `fedprune.runtime.self_check`
``head.json``               if it is there, devices can keep the activations of a frozen base, and train the head alone:
                            the same of its graphs, see `fedprune.runtime.proven_head`
``weights.safetensors``     the initial weights, unless the task draws them from a seed; what gateways give to devices
                            has the frozen and the local ones alone
==========================  =========================================================================

Nothing in a bundle is ever executed: neither code nor graph of its sender's.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedprune.data.description import Arrays, Data
from fedprune.data.normalization import scale_of, targets_of
from fedprune.errors import ProtocolError, StorageError, TaskError, TaskOfOtherVersion
from fedprune.model.forms import OutputForm, array_names
from fedprune.model.losses import Objective
from fedprune.model.metrics import Metric
from fedprune.model.randomness import Keyed
from fedprune.model.tensor_files import pack_tensors, unpack_tensors
from fedprune.model.tensors import TensorSpec, TensorTable
from fedprune.network.description import Network, pack_network, parse_network
from fedprune.pruning.blocks import SINGLE, BlockSize
from fedprune.pruning.masks import Allocation
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.regrowth import Regrowth
from fedprune.pruning.schedules import Schedule
from fedprune.pruning.scores import Score, ScoreWeights
from fedprune.runtime.proven_head import ProvenHead, parse_proven_head
from fedprune.runtime.self_check import ProvenGraph, parse_proven_graphs
from fedprune.runtime.tflite import one_line
from fedprune.slimming.pruning import UnitPruning
from fedprune.system.disk import why_unreadable
from fedprune.task.checks import problem_of_adjustment, problem_of_task
from fedprune.task.forms import Form, Forms
from fedprune.task.outputs import Output
from fedprune.task.training import Training

FORMAT_VERSION = 4
"""Of task.json: each change of what a task may say is a new one, so that who is older knows what to say of it."""

_FORMER_VERSION = 3
"""Is read too: what came since has defaults that mean what it meant. Devices are upgraded while rounds go on."""

MAX_BUNDLE_BYTES = 256 * 2**20
MOST_EXPANSION = 64
"""Times the bundle's bytes that its members may make: descriptions are deflated, and nobody unpacks a bomb."""

_TASK = "task.json"
_NETWORK = "network.json"
_GRAPHS = "graphs.json"
_HEAD = "head.json"
_WEIGHTS = "weights.safetensors"
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_EPOCH = (1980, 1, 1, 0, 0, 0)


Threshold = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
"""The magnitude below which weights go."""


class Pruning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pruning: when (`schedule`), by whom (`mask`), by what (`score`), what goes together (`block`, rows and columns)
    and how it is spread over the layers (`allocation`). Weights below `threshold` go too at each update. Whole `units`
    go by a schedule of their own, or none do. Single weights come back by `regrowth`, or none do."""

    schedule: Schedule
    mask: MaskPolicy = MaskPolicy.SHARED
    allocation: Allocation = Allocation.LAMP
    units: UnitPruning | None = None
    block: tuple[BlockSize, BlockSize] = SINGLE
    threshold: Threshold = 0.0
    score: Score | ScoreWeights = Score.MAGNITUDE
    regrowth: Regrowth | None = None

    def __post_init__(self) -> None:
        allowed = self.mask.rules.allocations
        if self.allocation not in allowed:
            needed = " or ".join(f'"{allocation}"' for allocation in sorted(allowed))
            raise ValueError(f'mask = "{self.mask}" needs allocation = {needed}: TF-MOT prunes layer by layer')
        if self.units is not None and not self.mask.rules.is_shared:
            raise ValueError('pruning.units needs mask = "shared": agents must remove the same units')
        if self.block != SINGLE and not self.mask.rules.is_shared:
            raise ValueError('pruning.block needs mask = "shared": TF-MOT\'s wrapper has blocks of dense layers alone')
        if self.threshold and not (self.mask.rules.is_shared and self.block == SINGLE):
            raise ValueError('pruning.threshold prunes single weights, for all: it needs mask = "shared", and no block')
        if self.is_scored_by_gateway and not self.mask.rules.is_shared:
            raise ValueError('pruning.score is of all agents together: another than "magnitude" needs mask = "shared"')
        if self.regrowth is not None and not self.mask.rules.is_shared:
            raise ValueError('pruning.regrowth is by the votes of all agents: it needs mask = "shared"')
        if self.regrowth is not None and (self.units is not None or self.block != SINGLE or self.threshold):
            raise ValueError(
                "pruning.regrowth brings single weights back, at 0, and so parts of what pruning.units, block or "
                "threshold took away: leave it out, or these"
            )
        if not isinstance(self.schedule, self.mask.rules.schedules):
            raise ValueError(
                f'mask = "{self.mask}" needs a schedule of kind = "polynomial" or "constant": TF-MOT has no other'
            )

    @property
    def scores(self) -> dict[Score, float]:
        """What weights are compared by, and how much each counts."""
        return {self.score: 1.0} if isinstance(self.score, Score) else self.score

    @property
    def is_scored_by_gateway(self) -> bool:
        """True if it takes all agents' updates to score weights, which only the gateway has."""
        return set(self.scores) != {Score.MAGNITUDE}

    @property
    def is_chosen_by_gateway(self) -> bool:
        """True if only the gateway can compute masks, so that they must travel."""
        return self.is_scored_by_gateway or self.regrowth is not None

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """That of weights, and that of units if they go too."""
        return (self.schedule,) if self.units is None else (self.schedule, self.units.schedule)


class Fill(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="fill"):
    """An initial tensor of one value."""

    value: Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]


class Uniform(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="uniform"):
    """An initial tensor drawn from U(-limit, limit), as Glorot and He uniform are (limit from the fans)."""

    limit: Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class SeededWeights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Initial weights as a recipe: a seed, and one initialiser for each row of the tensor table."""

    seed: int
    initializers: tuple[Fill | Uniform, ...]


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The bundle's table of contents. The model turns inputs of `input_shapes` into `outputs`; `training` has their
    losses. `data` says what becomes of everybody's files before the model takes them. The first metric, of the first
    output that has one, tells which model is the best."""

    name: str
    input_shapes: tuple[tuple[int, ...], ...]
    outputs: tuple[Output, ...]
    tensors: tuple[TensorSpec, ...]
    training: Training
    pruning: Pruning
    members: dict[str, str]
    data: Data = Arrays()
    initial: SeededWeights | None = None
    format_version: int = FORMAT_VERSION

    @property
    def table(self) -> TensorTable:
        return TensorTable(self.tensors)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What is learned of each output."""
        return tuple(form.objective for form in self.output_forms)

    @property
    def output_forms(self) -> tuple[OutputForm, ...]:
        """The form of each output, and what its array in data files is called."""
        arrays = array_names("y", [output.name for output in self.outputs if output.name])
        return tuple(
            OutputForm(array, output.shape, self.training.objective_of(output), output.name, output.metrics, self._unit)
            for array, output in zip(arrays, self.outputs, strict=True)
        )

    def drawn_weights(self) -> dict[str, NDArray[np.float32]] | None:
        """The weights before round 0, by name, in table order, as all sides draw them; None of a pretrained start."""
        return None if self.initial is None else _draw(self.initial, self.table)

    @property
    def _unit(self) -> tuple[float, ...]:
        """That of the only output's labels."""
        targets = targets_of(self.data)
        return (1.0,) if targets is None or targets.lacks_statistics else scale_of(targets)

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics of all outputs, in their order, by the names that evaluations have for them."""
        return {name: metric for form in self.output_forms for name, metric in form.named_metrics.items()}


@dataclass(frozen=True)
class Bundle:
    """A bundle that was checked: every member is there and has the digest that the task gives for it."""

    task: Task
    blob: bytes
    network: Network
    graphs: tuple[ProvenGraph, ...]
    """Empty for a task that only the keras trainer can train."""
    head: ProvenHead | None
    """None unless the network has a frozen base, and the head alone can be trained too."""
    _weights: bytes | None

    @cached_property
    def forms(self) -> Forms:
        """What the task can become while its units go."""
        return Forms(self.task, self.network)

    def in_form(self, form: Form) -> Bundle:
        """The bundle with task and network in one of its forms; weights and graphs in it stay those of the whole."""
        return self if form.is_whole else replace(self, task=form.task, network=form.network)

    def initial_weights(self) -> dict[str, NDArray[np.float32]]:
        """The weights before round 0, by name, in table order. Raises `TaskError` if they do not fit the table."""
        return self._initial(self.task.table)

    def unsent_weights(self) -> dict[str, NDArray[np.float32]]:
        """The tensors that no model brings, by name: frozen ones, and what local ones are at first. Raises what
        `initial_weights` does."""
        unsent = self.task.table.unsent
        return self._initial(TensorTable(unsent)) if unsent else {}

    def for_devices(self) -> bytes:
        """The bundle's bytes without the initial weights that models bring: pretrained ones, too, travel once."""
        if self._weights is None:
            return self.blob
        return write_bundle(
            self.task, network=self.network, weights=self.unsent_weights(), graphs=self.graphs, head=self.head
        )

    def _initial(self, table: TensorTable) -> dict[str, NDArray[np.float32]]:
        """The initial weights of `table`, which is the task's or a part of it."""
        if (drawn := self.task.drawn_weights()) is not None:
            weights = {spec.name: drawn[spec.name] for spec in table}
        else:
            weights = _load_snapshot(self._weights or b"", table)
        try:
            table.check(weights)
        except ProtocolError as error:
            raise TaskError(f"task {self.task.name!r}: initial weights: {error}; build the task again") from error
        return weights


def write_bundle(
    task: Task,
    *,
    network: Network,
    weights: dict[str, NDArray[np.float32]] | None,
    graphs: tuple[ProvenGraph, ...] = (),
    head: ProvenHead | None = None,
) -> bytes:
    """The bundle's bytes; `task.members` is filled in here, and the format is this version's.

    `weights` is None exactly if `task.initial` is given; one for devices has those of frozen and local tensors alone.
    """
    members = {_NETWORK: pack_network(network)}
    if graphs:
        members[_GRAPHS] = msgspec.json.encode(graphs)
    if head is not None:
        members[_HEAD] = msgspec.json.encode(head)
    if weights is not None:
        members[_WEIGHTS] = pack_tensors(weights)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    # One that was read may be of the version before, and is written with all the keys of this one.
    manifest = msgspec.json.encode(msgspec.structs.replace(task, members=digests, format_version=FORMAT_VERSION))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in {_TASK: manifest, **members}.items():
            how = zipfile.ZIP_STORED if name == _WEIGHTS else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, how, compresslevel=9)
    return buffer.getvalue()


def read_bundle(blob: bytes) -> Bundle:
    """Check a bundle's bytes and open it. Raises `TaskError` saying what is wrong with it."""
    members = _unzip(blob)
    task = _parse_task(members.pop(_TASK, b""))
    for name, digest in task.members.items():
        if hashlib.sha256(members.get(name, b"")).hexdigest() != digest:
            raise TaskError(f"task bundle: member {name} is missing or damaged; build or fetch the bundle again")
    if _NETWORK not in task.members:
        raise TaskError(f"task bundle: it must list {_NETWORK}; build it with `fedprune task build`")
    if (_WEIGHTS in task.members) == (task.initial is not None):
        raise TaskError("task bundle: it must hold either initial weights or their seed; build it again")
    members = {name: members[name] for name in task.members}  # what has no digest is not in the bundle
    network = parse_network(members[_NETWORK])
    network.check(task.table)
    shapes = network.shapes()
    names = network.output_names or ("",)
    outputs = [(name, shapes[value]) for name, value in zip(names, network.outputs, strict=True)]
    if (task.input_shapes, [(output.name, output.shape) for output in task.outputs]) != (network.inputs, outputs):
        raise TaskError(f"task bundle: {_NETWORK} has another form than the task; build it again")
    if problem := problem_of_adjustment(task, network):
        raise TaskError(f"task bundle: {problem}")
    return Bundle(
        task=task,
        blob=blob,
        network=network,
        graphs=parse_proven_graphs(members[_GRAPHS]) if _GRAPHS in members else (),
        head=parse_proven_head(members[_HEAD]) if _HEAD in members else None,
        _weights=members.get(_WEIGHTS),
    )


def load_bundle(path: Path) -> Bundle:
    """Read a bundle from a file. Raises `TaskError` for a bad bundle, `StorageError` for an unreadable file."""
    if why := why_unreadable(path):
        raise StorageError(f"{path}: {why}; name a .fedtask file, as `fedprune task build` writes it")
    try:
        if path.stat().st_size > MAX_BUNDLE_BYTES:
            raise TaskError(f"larger than {MAX_BUNDLE_BYTES} bytes, not a task bundle; build it again")
        return read_bundle(path.read_bytes())
    except TaskError as error:
        raise TaskError(f"{path}: {error}") from None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; is its disk in order?") from error


def _unzip(blob: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            infos = archive.infolist()
            if len(infos) > 16 or any(info.compress_type not in _COMPRESSIONS for info in infos):
                raise TaskError("task bundle: unexpected members or compression; build it with `fedprune task build`")
            if sum(info.file_size for info in infos) > min(MOST_EXPANSION * len(blob), MAX_BUNDLE_BYTES):
                raise TaskError("task bundle: members much larger than the file itself; fetch it again")
            return {info.filename: archive.read(info) for info in infos}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise TaskError(f"task bundle: not a readable archive ({error}); build or fetch it again") from error


class _Format(msgspec.Struct, frozen=True):
    """All that is read of a task before it is known that this version can read the rest."""

    format_version: int


def _parse_task(manifest: bytes) -> Task:
    try:
        _check_format(msgspec.json.decode(manifest, type=_Format).format_version)
        task = msgspec.json.decode(manifest, type=Task)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise TaskError(
            f"task bundle: {_TASK}: {one_line(str(error))}; build it with this version of fedprune"
        ) from error
    if problem := problem_of_task(task):
        raise TaskError(f"task bundle: {_TASK}: {problem}; build it again")
    return task


def _check_format(found: int) -> None:
    if not _FORMER_VERSION <= found <= FORMAT_VERSION:
        mend = "upgrade it" if found > FORMAT_VERSION else "build the task again"
        raise TaskOfOtherVersion(
            f"task bundle: format {found}, this fedprune reads {_FORMER_VERSION} and {FORMAT_VERSION}; {mend}"
        )


def _draw(initial: SeededWeights, table: TensorTable) -> dict[str, NDArray[np.float32]]:
    weights: dict[str, NDArray[np.float32]] = {}
    for spec, initializer in zip(table, initial.initializers, strict=True):
        if isinstance(initializer, Fill):
            weights[spec.name] = np.full(spec.shape, initializer.value, spec.dtype)
        else:
            keyed = Keyed(initial.seed, "initial weights", spec.name)
            weights[spec.name] = keyed.uniform(spec.size, -initializer.limit, initializer.limit).reshape(spec.shape)
    return weights


def _load_snapshot(blob: bytes, table: TensorTable) -> dict[str, NDArray[np.float32]]:
    try:
        loaded = unpack_tensors(blob)
    except ValueError as error:
        raise TaskError(f"task bundle: {_WEIGHTS}: {error}; build or fetch the bundle again") from error
    return {spec.name: loaded[spec.name] for spec in table if spec.name in loaded}
