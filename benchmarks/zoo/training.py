"""The part of the zoo that trains: speed, memory and parity of the two trainers. A process that calls
`litert_speed` imports no TensorFlow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from benchmarks.zoo.records import Speed
from edge_agent.trainers import Work
from fedprune.data import Dataset
from fedprune.model.forms import OutputForm
from fedprune.model.losses import LabelForm, Labels
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, Mask, Weights
from fedprune.pruning.masks import apply_mask, full_mask, score_mask
from fedprune.runtime.self_check import draw_inputs
from fedprune.system.usage import peak_memory_mb
from fedprune.task.bundle import Bundle, read_bundle

_EXAMPLES = 256
_PERTURBATIONS = 8
_MOST_PERTURBATIONS = 64
"""Tried on both trainers where they are further apart than `MOST_APART`: one of them may have taken an activation
across a kink, which few perturbations do."""
MOST_APART = 3.0
"""Roundings that the trainers may be apart."""
_ROUNDING = 2.0**-24


def litert_speed(blob: bytes) -> Speed:
    """A round of the agent's own trainer from a pruned model, one thread, after one to warm up."""
    from edge_agent.trainers.litert import LiteRTTrainer

    bundle = read_bundle(blob)
    return _speed(bundle, LiteRTTrainer(bundle, examples=_EXAMPLES, threads=1))


def keras_speed(blob: bytes) -> Speed:
    """The same of the keras trainer."""
    from edge_agent.trainers.keras import KerasTrainer

    bundle = read_bundle(blob)
    return _speed(bundle, KerasTrainer(bundle, threads=1))


def parity(blob: bytes) -> float:
    """How far the trainers' weights are apart after a round, over how far the keras trainer's are from its own when the
    first weights are off by one rounding: the furthest of some trials, of more, by either trainer, where that is more
    than `MOST_APART` times."""
    from edge_agent.trainers.keras import KerasTrainer
    from edge_agent.trainers.litert import LiteRTTrainer

    bundle = read_bundle(blob)
    data, first = examples(bundle, _EXAMPLES), bundle.initial_weights()
    keras, litert = KerasTrainer(bundle, threads=1), LiteRTTrainer(bundle, examples=_EXAMPLES, threads=1)

    def trained(trainer: Any, weights: Weights) -> Weights:
        result: Weights = trainer.train(_work(weights, full_mask(bundle.task.table)), data).weights
        return result

    def moved(trainer: Any, number: int, unmoved: Weights) -> float:
        return _distance(trained(trainer, perturbed(first, number)), unmoved)

    expected, found = trained(keras, first), trained(litert, first)
    apart = _distance(found, expected)
    furthest = max(moved(keras, number, expected) for number in range(_PERTURBATIONS))
    for number in range(_MOST_PERTURBATIONS):
        if apart <= MOST_APART * furthest:
            break
        furthest = max(furthest, moved(keras, _PERTURBATIONS + number, expected), moved(litert, number, found))
    return apart / furthest


def examples(bundle: Bundle, count: int) -> Dataset:
    """Noise, or any ids of the vocabulary, with labels of the loss's form."""
    keyed = Keyed(0, "zoo")
    x = {form.array: draw_inputs(keyed, (count, *form.shape), form.vocabulary) for form in bundle.network.input_forms}
    return Dataset(x, {form.array: _labels(form, count, keyed) for form in bundle.task.output_forms})


def _labels(form: OutputForm, count: int, keyed: Keyed) -> Labels:
    *places, outputs = (count, *form.shape)
    if form.objective.loss.rule.labels is LabelForm.CLASS_NUMBERS:
        classes = keyed.integers(math.prod(places)) % np.uint64(outputs)
        return classes.astype(np.int64).reshape(places)
    return keyed.uniform(math.prod(places) * outputs, -1.0, 1.0).reshape(*places, outputs)


def perturbed(weights: Weights, number: int) -> Weights:
    """Each weight off by a rounding error at most."""
    keyed = Keyed(number, "one rounding")

    def off(array: Array) -> Array:
        noise = keyed.uniform(array.size, -1.0, 1.0).reshape(array.shape).astype(np.float64)
        return (array * (1.0 + 2.0 * _ROUNDING * noise)).astype(array.dtype)

    return {name: off(array) for name, array in weights.items()}


def _speed(bundle: Bundle, trainer: Any) -> Speed:
    task = bundle.task
    data, weights = examples(bundle, _EXAMPLES), bundle.initial_weights()
    sparsity = task.pruning.schedule.target_sparsity
    mask = score_mask(weights, task.table, sparsity, task.pruning.allocation, full_mask(task.table))
    work = _work(apply_mask(weights, mask), mask)
    trainer.train(work, data)
    seconds = trainer.train(work, data).seconds
    return Speed(task.training.steps_per_round * task.training.batch_size / seconds, peak_memory_mb())


def _work(weights: Weights, mask: Mask) -> Work:
    return Work(weights, mask, 0, None, Keyed(0, "zoo"))


def _distance(a: Weights, b: Weights) -> float:
    return math.sqrt(sum(float(np.square(a[name].astype(np.float64) - b[name]).sum()) for name in a))
