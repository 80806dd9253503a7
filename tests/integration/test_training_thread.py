"""The training thread goes from task to task, with the trainer that it has on a device."""

from __future__ import annotations

import errno
import os
import queue
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from keras_bundles import bundle_of, convolutional, learnable, perceptron, seeded, weights_of

from aggregator.global_model import new_model
from edge_agent import process
from edge_agent.local_round import LocalResult, LocalRound
from edge_agent.trainers.choice import TrainerChoice
from edge_agent.training_thread import TrainingThread
from fedprune.codecs import Values, decode_model, decode_update
from fedprune.data import Dataset
from fedprune.errors import DataError, StorageError
from fedprune.pruning.masks import full_mask
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.runtime.self_check import RuntimeUnfit, SelfCheck
from fedprune.system.disk import Directory
from fedprune.task.bundle import Bundle, read_bundle, write_bundle
from fedprune.wire.messages import Assignment
from fedprune.wire.transfer import content_of

_SCHEDULE = ConstantSparsity(begin_step=0, end_step=6, frequency=6, target_sparsity=0.5)


def test_trainers_send_updates_that_cannot_be_told_apart() -> None:
    model = seeded(perceptron())
    task = bundle_of(model, _SCHEDULE, mask=MaskPolicy.SHARED)
    table = task.task.table
    _, mask = decode_model(_first_round(task).model, table)

    updates = [
        decode_update(_work(task, trainer).update.blob, table, mask, Values.FP32).delta
        for trainer in ("keras", "litert")
    ]

    assert any(array.any() for array in updates[0].values())
    for name, array in updates[0].items():
        np.testing.assert_allclose(updates[1][name], array, rtol=0, atol=1e-5, err_msg=name)


def _work(task: Bundle, trainer: TrainerChoice) -> LocalResult:
    delivered: queue.SimpleQueue[LocalResult | Exception] = queue.SimpleQueue()
    TrainingThread(lambda: learnable(32), trainer, 1, None, delivered.put).start(_first_round(task), task.blob)
    result = delivered.get(timeout=60)
    assert isinstance(result, LocalResult), result
    return result


def test_data_are_loaded_for_the_first_round_of_a_task_only() -> None:
    task = bundle_of(seeded(perceptron()), _SCHEDULE, mask=MaskPolicy.SHARED)
    loaded: list[Dataset] = []
    delivered: queue.SimpleQueue[LocalResult | Exception] = queue.SimpleQueue()

    def load() -> Dataset:
        loaded.append(learnable(32))
        return loaded[-1]

    training_thread = TrainingThread(load, "litert", 1, None, delivered.put)
    counts = [len(loaded)]
    for _ in range(2):
        training_thread.start(_first_round(task), task.blob)
        assert isinstance(delivered.get(timeout=60), LocalResult)
        counts.append(len(loaded))

    assert counts == [0, 1, 1]


def test_a_task_that_the_data_do_not_fit_leaves_nothing_of_itself_behind() -> None:
    model = seeded(perceptron())
    task = bundle_of(model, _SCHEDULE, mask=MaskPolicy.SHARED)
    delivered: queue.SimpleQueue[LocalResult | Exception] = queue.SimpleQueue()
    training_thread = TrainingThread(lambda: learnable(32), "keras", 1, None, delivered.put)

    results = []
    for blob in (task.blob, _task_for_other_data(), task.blob):
        training_thread.start(_first_round(task), blob)
        results.append(delivered.get(timeout=60))

    before, refused, after = results
    assert isinstance(refused, DataError)
    assert isinstance(before, LocalResult), before
    assert isinstance(after, LocalResult), after
    assert after.update.blob == before.update.blob


def test_a_runtime_that_computes_something_else_trains_nothing() -> None:
    bundle = bundle_of(seeded(perceptron()), _SCHEDULE, mask=MaskPolicy.SHARED)
    task = read_bundle(_with_other_answers(bundle))
    delivered: queue.SimpleQueue[LocalResult | Exception] = queue.SimpleQueue()

    training_thread = TrainingThread(lambda: learnable(32), "litert", 1, None, delivered.put)
    training_thread.start(_first_round(task), task.blob)

    assert isinstance(delivered.get(timeout=60), RuntimeUnfit)


def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found while training it ends the agent, as anywhere else."""
    task = bundle_of(seeded(perceptron()), _SCHEDULE, mask=MaskPolicy.SHARED)
    delivered: queue.SimpleQueue[LocalResult | Exception] = queue.SimpleQueue()
    monkeypatch.setattr(os, "fsync", _no_space)

    training_thread = TrainingThread(lambda: learnable(32), "litert", 1, Directory(tmp_path), delivered.put)
    training_thread.start(_first_round(task), task.blob)
    told = delivered.get(timeout=60)

    assert isinstance(told, StorageError)
    delivered.put(told)
    idle: Any = SimpleNamespace(state=SimpleNamespace(wake_at=None))
    with pytest.raises(StorageError, match="No space left"):
        process._loop(idle, delivered, lambda: None)


def _no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _with_other_answers(bundle: Bundle) -> bytes:
    """A bundle that says that TensorFlow answered something else."""
    assert bundle.self_check is not None
    (probe,) = bundle.self_check.probes
    answers = {name: msgspec.structs.replace(sketch, sums=(5.0, 5.0, 5.0)) for name, sketch in probe.answers.items()}
    return write_bundle(
        bundle.task,
        model_json=bundle.model_json,
        inference_graph=bundle.inference_graph,
        training_graph=bundle.training_graph,
        self_check=SelfCheck((msgspec.structs.replace(probe, answers=answers),)),
        weights=bundle.initial_weights(),
    )


def _task_for_other_data() -> bytes:
    """Larger images than the data's, and other tensors than the test's own task."""
    model = convolutional()
    task = msgspec.structs.replace(bundle_of(model, _SCHEDULE, mask=MaskPolicy.SHARED).task, input_shape=(9, 9, 1))
    return write_bundle(task, model_json=model.to_json(), inference_graph=b"not looked at", weights=weights_of(model))


def _first_round(bundle: Bundle) -> LocalRound:
    everywhere = full_mask(bundle.task.table)
    first = new_model(bundle.initial_weights(), bundle.task, "run", 0, Values.FP32, everywhere)
    assignment = Assignment(
        run="run",
        round=0,
        task=content_of(bundle.blob),
        model=first.model.content,
        weights_digest=first.model.weights_digest,
        schedule_step=0,
        seed=1,
        update_values="fp32",
        seconds_left=60.0,
    )
    return LocalRound("pi-1", assignment, first.blob, None, None, 0.0)
