"""A small task's bundle, and its members to tamper with."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from fedprune.model.tensors import TensorClass, TensorSpec
from fedprune.network.description import Call, Network
from fedprune.network.layers import BatchNormalization, Dense
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.runtime.proven_head import ProvenHead
from fedprune.runtime.self_check import Probe, ProvenGraph, SelfCheck, Sketch
from fedprune.task.bundle import (
    Fill,
    Pruning,
    SeededWeights,
    Task,
    Uniform,
    write_bundle,
)
from fedprune.task.outputs import Output
from fedprune.task.training import Training

NETWORK = Network(
    name="digits",
    inputs=((2,),),
    layers=(
        Dense(name="z", units=3, kernel="z/kernel", bias="a/bias"),
        BatchNormalization(
            name="norm",
            epsilon=1e-3,
            momentum=0.9,
            unbiased=False,
            gamma=None,
            beta=None,
            mean="norm/moving_mean",
            variance="norm/moving_variance",
        ),
        Dense(name="base", units=3, kernel="base/kernel"),
    ),
    calls=(Call(0, (0,)), Call(1, (1,)), Call(2, (2,))),
    outputs=(3,),
)
WEIGHTS: dict[str, Any] = {
    "z/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a/bias": np.zeros(3, np.float32),
    "norm/moving_mean": np.zeros(3, np.float32),
    "norm/moving_variance": np.ones(3, np.float32),
    "base/kernel": np.full((3, 3), 0.5, np.float32),
}
SELF_CHECK = SelfCheck((Probe(3, 2, 8.0, {"loss": Sketch(1e-5, (0.5, -0.5, 0.5))}),))
GRAPHS = (ProvenGraph(8, "0" * 64, 1000, SELF_CHECK), ProvenGraph(16, "f" * 64, 2000, SELF_CHECK))
KINDS = (
    TensorClass.PRUNABLE,
    TensorClass.DENSE,
    TensorClass.STATISTICS,
    TensorClass.STATISTICS,
    TensorClass.FROZEN,
)
HEAD = ProvenHead(GRAPHS[:1], Sketch(0.5, (1.0, -2.0, 3.0)))


def make_task(*, seeded: bool = False) -> Task:
    return Task(
        name="digits",
        input_shapes=((2,),),
        outputs=(Output((3,), from_logits=True),),
        tensors=tuple(
            TensorSpec(name, array.shape, array.dtype.name, kind, name.split("/")[0])
            for (name, array), kind in zip(WEIGHTS.items(), KINDS, strict=True)
        ),
        training=Training(steps_per_round=5),
        pruning=Pruning(ConstantSparsity(target_sparsity=0.5, begin_step=0, frequency=1)),
        members={},
        initial=SeededWeights(7, (Uniform(0.5), *(Fill(float(value)) for value in (0, 0, 1, 0.5)))) if seeded else None,
    )


def output_of(shape: tuple[int, ...], **changes: Any) -> dict[str, Any]:
    """A task's member with an output of this shape."""
    return {"outputs": [{"shape": shape, "from_logits": True, **changes}]}


def make_blob(*, seeded: bool = False) -> bytes:
    """A bundle with all optional members, or with none."""
    return write_bundle(
        make_task(seeded=seeded),
        network=NETWORK,
        weights=None if seeded else WEIGHTS,
        graphs=() if seeded else GRAPHS,
        head=None if seeded else HEAD,
    )


def members_of(blob: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(blob)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def with_task(change: Callable[[dict[str, Any]], object], *, seeded: bool = True) -> bytes:
    """A bundle whose task.json was changed, and is otherwise right."""
    members = members_of(make_blob(seeded=seeded))
    task = msgspec.json.decode(members["task.json"])
    change(task)
    return archive_of(members | {"task.json": msgspec.json.encode(task)})
