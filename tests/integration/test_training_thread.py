"""The training thread goes from task to task, with the trainer that it has on a device."""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from keras_bundles import bundle_of, learnable, perceptron, seeded, varied

from aggregator.global_model import new_model
from edge_agent import process
from edge_agent.agent_state import Limits
from edge_agent.limits import limits_of
from edge_agent.local_round import LocalResult, LocalRound
from edge_agent.local_training import train_locally
from edge_agent.trainers import Trained, TrainingStopped, Work
from edge_agent.trainers.choice import TrainerChoice, make_trainer
from edge_agent.trainers.litert import LiteRTTrainer
from edge_agent.training_thread import TrainingEnded, TrainingThread
from fedprune.codecs import Key, Values, decode_model, decode_update, parse_codec
from fedprune.data import Dataset
from fedprune.data.files_seen import files_seen
from fedprune.errors import DataError, StorageError
from fedprune.pruning.masks import full_mask
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.runtime.self_check import RuntimeUnfit, SelfCheck
from fedprune.system.disk import Directory
from fedprune.task.bundle import Bundle, read_bundle, write_bundle
from fedprune.wire.link import Drained
from fedprune.wire.messages import WEIGHTS_DIGEST_BYTES, Assignment, Failed, Terms
from fedprune.wire.transfer import content_of
from tests.closeness import assert_close
from tests.devices import Device
from tests.patience import PATIENCE_S
from tests.samples import MODEL_BLOB, RUN, TASK_BLOB, assignment, chunks

_SCHEDULE = ConstantSparsity(begin_step=0, end_step=6, frequency=6, target_sparsity=0.5)


def test_trainers_send_updates_that_cannot_be_told_apart() -> None:
    model = seeded(perceptron())
    task = bundle_of(model, _SCHEDULE, mask=MaskPolicy.SHARED)
    table = task.task.table
    _, mask = decode_model(_first_round(task).model, table)

    updates = [
        decode_update(
            _work(task, trainer).update.blob, table, mask, parse_codec("mask | fp32"), Key(1, 0, "pi-1")
        ).delta
        for trainer in ("keras", "litert")
    ]

    assert any(array.any() for array in updates[0].values())
    assert_close(updates[1], updates[0], 1e-5)


class _Thread:
    """A training thread, and what it delivered."""

    def __init__(
        self,
        trainer: TrainerChoice = "litert",
        load: Callable[[], Dataset] = lambda: learnable(32),
        disk: Directory | None = None,
        seen: Callable[[], bytes] = bytes,
    ) -> None:
        self.delivered: queue.SimpleQueue[TrainingEnded] = queue.SimpleQueue()
        self.thread = TrainingThread(lambda _: load(), trainer, 1, disk, self.delivered.put, seen=seen)

    def trains(self, task: Bundle, blob: bytes | None = None) -> LocalResult | Exception:
        """What comes of the task's first round; of another bundle, if `blob` is one."""
        self.thread.start(1, lambda: (_first_round(task), blob or task.blob))
        return self.delivered.get(timeout=PATIENCE_S).result


def _work(task: Bundle, trainer: TrainerChoice) -> LocalResult:
    result = _Thread(trainer).trains(task)
    assert isinstance(result, LocalResult), result
    return result


def test_new_files_are_read_for_the_next_round(tmp_path: Path) -> None:
    task = bundle_of(seeded(perceptron()), _SCHEDULE, mask=MaskPolicy.SHARED)
    (tmp_path / "one").touch()
    training_thread = _Thread(
        load=lambda: learnable(32 * len(list(tmp_path.iterdir()))), seen=lambda: files_seen(tmp_path)
    )
    examples = []
    for name in ("one", "two", "two", "three"):
        (tmp_path / name).touch()
        result = training_thread.trains(task)
        assert isinstance(result, LocalResult), result
        examples.append(result.submit.examples)

    assert examples == [32, 64, 64, 96]


def test_data_are_loaded_for_the_first_round_of_a_task_only() -> None:
    task = bundle_of(seeded(perceptron()), _SCHEDULE, mask=MaskPolicy.SHARED)
    loaded: list[Dataset] = []

    def load() -> Dataset:
        loaded.append(learnable(32))
        return loaded[-1]

    training_thread = _Thread(load=load)
    counts = [len(loaded)]
    for _ in range(2):
        assert isinstance(training_thread.trains(task), LocalResult)
        counts.append(len(loaded))

    assert counts == [0, 1, 1]


def test_a_training_that_is_held_goes_on_to_the_same_result_and_can_be_stopped_before() -> None:
    task = bundle_of(seeded(perceptron()), _SCHEDULE, mask=MaskPolicy.SHARED)
    expected = _work(task, "litert")
    held = _Thread()
    held.thread.hold(True)
    held.thread.start(1, lambda: (_first_round(task), task.blob))
    assert not held.thread.is_training
    held.thread.stop()
    held.thread.start(2, lambda: (_first_round(task), task.blob))
    held.thread.hold(False)
    ended = held.delivered.get(timeout=PATIENCE_S)
    assert ended.number == 2
    assert isinstance(ended.result, LocalResult)
    assert ended.result.update.blob == expected.update.blob


def test_a_training_that_makes_no_step_is_stuck_and_one_that_is_held_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the watchdog is fed no more, and the service is started anew."""
    task = bundle_of(seeded(perceptron()), _SCHEDULE, mask=MaskPolicy.SHARED)
    reads, goes_on = threading.Event(), threading.Event()

    def load() -> Dataset:
        reads.set()
        goes_on.wait(PATIENCE_S)
        return learnable(32)

    training = _Thread(load=load)
    assert not training.thread.is_stuck()
    training.thread.start(1, lambda: (_first_round(task), task.blob))
    assert reads.wait(PATIENCE_S)
    assert not training.thread.is_stuck()
    monkeypatch.setattr("edge_agent.training_thread.LONGEST_STEP_S", -1.0)
    assert training.thread.is_stuck()
    training.thread.hold(True)
    assert not training.thread.is_stuck()
    training.thread.hold(False)
    goes_on.set()
    assert isinstance(training.delivered.get(timeout=PATIENCE_S).result, LocalResult)
    assert not training.thread.is_stuck()


def test_a_task_that_the_data_do_not_fit_leaves_nothing_of_itself_behind() -> None:
    model = seeded(perceptron())
    task = bundle_of(model, _SCHEDULE, mask=MaskPolicy.SHARED)
    training_thread = _Thread("keras")

    results = [training_thread.trains(task, blob) for blob in (task.blob, _task_for_other_data(), task.blob)]

    before, refused, after = results
    assert isinstance(refused, DataError)
    assert isinstance(before, LocalResult), before
    assert isinstance(after, LocalResult), after
    assert after.update.blob == before.update.blob


def test_a_runtime_that_computes_something_else_trains_nothing() -> None:
    bundle = bundle_of(seeded(perceptron()), _SCHEDULE, mask=MaskPolicy.SHARED)
    task = read_bundle(_with_other_answers(bundle))

    assert isinstance(_Thread().trains(task), RuntimeUnfit)


@pytest.mark.parametrize("trainer", ["keras", "litert"])
def test_a_training_is_stopped_between_two_steps(trainer: TrainerChoice) -> None:
    steps = 10_000
    task = _task_of(steps)
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    local, data = _first_round(task), learnable(32)
    with pytest.raises(TrainingStopped):
        train_locally(local, task, make_trainer(trainer, task, examples=32, threads=1), data, should_stop)

    assert 3 < asked < steps


@pytest.mark.parametrize("trainer", ["keras", "litert"])
def test_a_trainer_that_was_stopped_trains_the_next_round_as_if_nothing_had_been(trainer: TrainerChoice) -> None:
    task, data = bundle_of(seeded(perceptron()), _SCHEDULE, mask=MaskPolicy.SHARED), learnable(32)
    local, used = _first_round(task), make_trainer(trainer, task, examples=32, threads=1)
    answers = iter([False, True, True])
    with pytest.raises(TrainingStopped):
        train_locally(local, task, used, data, lambda: next(answers))

    after = train_locally(local, task, used, data)
    fresh = train_locally(local, task, make_trainer(trainer, task, examples=32, threads=1), data)
    assert after.update.blob == fresh.update.blob


def test_after_a_recall_the_next_training_waits_for_the_one_that_ends() -> None:
    task = bundle_of(seeded(perceptron()), _SCHEDULE, mask=MaskPolicy.SHARED)
    training_thread, is_loading, may_go_on = _Thread(), threading.Event(), threading.Event()
    under_way: list[int] = []

    def open_slowly() -> tuple[LocalRound, bytes]:
        under_way.append(1)
        is_loading.set()
        assert may_go_on.wait(PATIENCE_S)
        under_way.remove(1)
        return _first_round(task), task.blob

    def open_next() -> tuple[LocalRound, bytes]:
        assert not under_way, "two trainings at once"
        return _first_round(task), task.blob

    training_thread.thread.start(1, open_slowly)
    assert is_loading.wait(PATIENCE_S)
    for number in (2, 3, 4):  # however often it is recalled and assigned meanwhile
        training_thread.thread.stop()
        training_thread.thread.start(number, open_next)
    may_go_on.set()

    ended = training_thread.delivered.get(timeout=PATIENCE_S)
    assert (ended.number, type(ended.result)) == (4, LocalResult)
    assert training_thread.delivered.empty()


@pytest.mark.parametrize("where", ["the store", "the data"])
def test_whatever_fails_before_training_is_told(where: str) -> None:
    task = bundle_of(seeded(perceptron()), _SCHEDULE, mask=MaskPolicy.SHARED)
    if where == "the data":
        result = _Thread(load=_no_memory).trains(task)
    else:
        training_thread = _Thread()
        training_thread.thread.start(1, _no_memory)
        result = training_thread.delivered.get(timeout=PATIENCE_S).result

    assert isinstance(result, MemoryError)


def test_a_delta_that_overflows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    task = bundle_of(seeded(perceptron()), _SCHEDULE, mask=MaskPolicy.SHARED)
    monkeypatch.setattr(LiteRTTrainer, "train", _train_too_far)

    assert isinstance(_Thread().trains(task), Exception)


def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found while training it ends the agent, as anywhere else; the gateway is told first."""
    task = bundle_of(seeded(perceptron()), _SCHEDULE, mask=MaskPolicy.SHARED)
    training_thread = _Thread(disk=Directory(tmp_path / "checks"))
    device = Device(tmp_path / "state")
    device.hears(assignment(), *chunks(TASK_BLOB), *chunks(MODEL_BLOB))
    monkeypatch.setattr(os, "fsync", _no_space)

    training_thread.thread.start(1, lambda: (_first_round(task), task.blob))
    with pytest.raises(StorageError, match="No space left"):
        process._loop(device.runner, training_thread.delivered, training_thread.thread, lambda: None)

    (failed,) = device.said(Failed)
    assert isinstance(failed, Failed)
    assert "No space left" in failed.why


def test_a_memory_error_ends_the_round_and_not_the_agent(tmp_path: Path) -> None:
    device, events = Device(tmp_path / "state"), queue.SimpleQueue[Any]()
    device.hears(assignment(), *chunks(TASK_BLOB), *chunks(MODEL_BLOB))
    task = bundle_of(seeded(perceptron()), _SCHEDULE, mask=MaskPolicy.SHARED)

    events.put(TrainingEnded(1, _Thread(load=_no_memory).trains(task)))
    events.put(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        process._loop(device.runner, events, _Thread().thread, lambda: None)

    assert device.said(Failed) == [Failed(run=RUN, round=0, why="MemoryError: Unable to allocate 300 MiB")]


def test_the_loop_tells_the_machine_that_the_link_has_drained(tmp_path: Path) -> None:
    device, events = Device(tmp_path / "state"), queue.SimpleQueue[Any]()
    device.hears(assignment(), *chunks(TASK_BLOB), *chunks(MODEL_BLOB))
    device.ends_training()
    assert device.runner.state.serving.burst_at is not None

    for event in (Drained(), KeyboardInterrupt()):
        events.put(event)
    with pytest.raises(KeyboardInterrupt):
        process._loop(device.runner, events, _Thread().thread, lambda: None)

    assert device.runner.state.serving.burst_at is None


@pytest.mark.parametrize(("memory", "disk", "task", "model"), [(1e9, 1e12, 125, 125), (1e9, 1e8, 50, 125)])
def test_contents_are_bounded_by_memory_and_disk(memory: float, disk: float, task: int, model: int) -> None:
    assert limits_of(memory, disk) == Limits(max_task_bytes=task * 10**6, max_model_bytes=model * 10**6)


def _no_memory() -> Any:
    raise MemoryError("Unable to allocate 300 MiB")


def _train_too_far(_: LiteRTTrainer, work: Work, __: Dataset) -> Trained:
    """As far from the global model as float32 goes, and further."""
    far = {name: np.full_like(array, 3e38) for name, array in work.weights.items()}
    weights = dict(work.weights)
    for array in weights.values():
        array -= np.float32(3e38)
    return Trained(far, work.mask, {}, loss=1.0, seconds=1.0, steps=1)


def _task_of(steps: int) -> Bundle:
    bundle = bundle_of(seeded(perceptron()), _SCHEDULE, mask=MaskPolicy.SHARED)
    training = msgspec.structs.replace(bundle.task.training, steps_per_round=steps)
    return replace(bundle, task=msgspec.structs.replace(bundle.task, training=training))


def _no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _with_other_answers(bundle: Bundle) -> bytes:
    """A bundle that says that TensorFlow answered something else."""
    (graph,) = bundle.graphs
    (probe,) = graph.self_check.probes
    answers = {name: msgspec.structs.replace(sketch, sums=(5.0, 5.0, 5.0)) for name, sketch in probe.answers.items()}
    other = SelfCheck((msgspec.structs.replace(probe, answers=answers),))
    graphs = (msgspec.structs.replace(graph, self_check=other),)
    return write_bundle(bundle.task, network=bundle.network, weights=bundle.initial_weights(), graphs=graphs)


def _task_for_other_data() -> bytes:
    """Images of another size than the data's, and other tensors than the test's own task."""
    return bundle_of(varied(), _SCHEDULE, mask=MaskPolicy.SHARED).blob


def _first_round(bundle: Bundle) -> LocalRound:
    everywhere = full_mask(bundle.task.table)
    first = new_model(bundle.initial_weights(), bundle.task, "run", 0, Values.FP32, everywhere)
    assignment = Assignment(
        run="run",
        incarnation=1,
        round=0,
        weights_digest=first.model.weights_digest[:WEIGHTS_DIGEST_BYTES],
        seconds_left=60,
        model=first.model.content,
        terms=Terms(task=content_of(bundle.blob), seed=1, clock_steps=10, codec="mask | fp32"),
    )
    return LocalRound("pi-1", assignment, first.blob, lambda: None, None, 0.0)
