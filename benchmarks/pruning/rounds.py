"""A federation whose network loses half of its units while it runs: steps, memory and bytes of a device, by round.

The gateway merges what one device sends, which trains in a process of its own. Importing this module imports
TensorFlow.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from aggregator.global_model import GlobalModel, new_model
from aggregator.round_merge import Merger
from benchmarks.pruning.device import Done, work
from benchmarks.pruning.halves import MULTIPLE, halves
from benchmarks.pruning.results import Round, Shrunk
from benchmarks.unproven import unproven_graph
from benchmarks.without_network import RUN, assignment_of, take_update
from fedprune.codecs import parse_codec, parse_model_codec
from fedprune.model.losses import Loss, Objective
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.slimming.pruning import UnitPruning
from fedprune.system.disk import Directory
from fedprune.task.bundle import Bundle, Pruning, Task, read_bundle, write_bundle
from fedprune.task.evaluation import Evaluation
from fedprune.task.outputs import Output
from fedprune.task.succession import first_version
from fedprune.task.training import Sgd, Training
from fedprune.wire.messages import Submit

BEFORE, ROUNDS = 3, 7
"""Rounds until units go, and all of them. In the round after that the device compares the two networks."""
_BATCH, _SEED = 32, 1
_CODEC, _MODEL_CODEC = "mask | feedback(2) | int8", "fp16"
_RATE = 0.01
"""A learning rate at which nothing explodes; random examples teach nothing."""


def shrunk(name: str, steps: int) -> Shrunk:
    """Run the federation of one of the networks, with so many steps a round."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        bundle = _bundle(name, steps)
        Path(folder, "task").write_bytes(bundle.blob)
        ours, theirs = context.Pipe()
        device = context.Process(target=work, args=(folder, theirs), daemon=True)
        device.start()
        theirs.close()  # so that a device that ends is noticed
        idle_mb = float(ours.recv())
        rounds = _rounds(bundle, Directory(Path(folder, "updates")), ours)
        ours.send(None)
        device.join()
    # The first round also warms up; in the one after the units went two networks are compared.
    before, after = rounds[1:BEFORE], rounds[BEFORE + 1 :]
    first, last = (min(each.step_ms for each in part) for part in (before, after))
    peaks = [max(each.peak_mb for each in part) for part in (before, after)]
    beyond = [max(each.peak_mb - each.held_mb for each in part) for part in (before, after)]
    return Shrunk(
        network=name,
        idle_mb=idle_mb,
        rounds=tuple(rounds),
        train_step_ms_first=first,
        train_step_ms_last=last,
        speedup=first / last,
        peak_saved=1.0 - peaks[1] / peaks[0],
        peak_beyond_held_saved=1.0 - beyond[1] / beyond[0],
    )


def _rounds(bundle: Bundle, disk: Directory, device: Connection) -> list[Round]:
    task, models = bundle.task, parse_model_codec(_MODEL_CODEC)
    merger = Merger(task, bundle.network, RUN, _SEED, models, parse_codec(_CODEC), disk, _unknown, None)
    form, mask = first_version(merger.forms, bundle.initial_weights())
    model = new_model(bundle.initial_weights(), task, RUN, 0, models.values, mask, form=form)
    rounds = []
    for _ in range(ROUNDS):
        assignment = assignment_of(bundle, model, seed=_SEED, codec=_CODEC)
        device.send((msgspec.msgpack.encode(assignment), model.blob))
        done: Done = device.recv()
        rounds.append(_round(merger, model, done))
        model = _merged(merger, model, done, disk, task)
    return rounds


def _round(merger: Merger, model: GlobalModel, done: Done) -> Round:
    parameters = merger.form_of(model).task.table.parameters
    return Round(parameters, done.step_ms, done.held_mb, done.peak_mb, len(model.blob), len(done.update))


def _merged(merger: Merger, model: GlobalModel, done: Done, disk: Directory, task: Task) -> GlobalModel:
    submit = msgspec.msgpack.decode(done.submit, type=Submit)
    update = take_update(merger, disk, model, "device", submit, done.update, task.training)
    return merger.merge(model, {"device": update}, []).model


def _bundle(name: str, steps: int) -> Bundle:
    whole, _ = halves(name)
    outputs = whole.network.shapes()[whole.network.outputs[0]]
    objective = Objective(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, from_logits=True)
    units = ConstantSparsity(target_sparsity=0.5, begin_step=BEFORE * steps, frequency=steps)
    task = Task(
        name=name,
        input_shapes=whole.network.inputs,
        outputs=(Output(outputs, from_logits=True),),
        tensors=tuple(whole.table),
        training=Training(steps, _BATCH, Sgd(_RATE, 0.9)),
        pruning=Pruning(
            ConstantSparsity(target_sparsity=0.0, begin_step=0, frequency=steps),
            units=UnitPruning(units, multiple=MULTIPLE),
        ),
        members={},
    )
    graph = unproven_graph(whole.network, whole.table, [objective], _BATCH)
    return read_bundle(write_bundle(task, network=whole.network, weights=whole.weights, graphs=(graph,)))


def _unknown(*_: object) -> Evaluation:
    """Nobody asks how good it is."""
    return Evaluation(1, 1.0, {})
