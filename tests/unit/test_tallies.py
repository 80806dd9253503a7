"""Tallies as bytes: what comes back is what was sent, and nothing that examples cannot have is believed."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.errors import ProtocolError
from fedprune.model.forms import MAX_ENDS
from fedprune.model.losses import Labels, Loss
from fedprune.model.metrics import Metric, why_unfit
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.task.bundle import Pruning, Task
from fedprune.task.outputs import Output, OutputLoss
from fedprune.task.tallies import MOST_SUMMED, most_tallies_bytes, pack_tallies, unpack_tallies
from fedprune.task.training import Training
from fedprune.wire.messages import MAX_TALLIES_BYTES

EXAMPLES, OUTPUTS = 50, 8
LOGITS = Keyed(0, "logits").uniform(EXAMPLES * OUTPUTS, -3.0, 3.0).reshape(EXAMPLES, OUTPUTS)
CLASSES = (Keyed(0, "classes").integers(EXAMPLES) % np.uint64(OUTPUTS)).astype(np.int64)


def task_of(loss: Loss, *metrics: Metric) -> Task:
    return Task(
        name="test",
        input_shapes=((2,),),
        outputs=(Output((OUTPUTS,), True, metrics=metrics),),
        tensors=(),
        training=Training(steps_per_round=1, loss=loss),
        pruning=Pruning(ConstantSparsity(target_sparsity=0.5, begin_step=0, frequency=1)),
        members={},
    )


def sent(task: Task, outputs: Array, labels: Labels) -> bytes:
    (objective,) = task.objectives
    return pack_tallies({name: metric.tally(outputs, labels, objective) for name, metric in task.metrics.items()})


@pytest.mark.parametrize("loss", Loss)
def test_tallies_come_back(loss: Loss) -> None:
    task = task_of(loss, *(metric for metric in Metric if not why_unfit([metric], loss, OUTPUTS)))
    one_hot = np.eye(OUTPUTS, dtype=np.float32)[CLASSES]
    labels = CLASSES if loss is Loss.SPARSE_CATEGORICAL_CROSSENTROPY else one_hot

    found = unpack_tallies(sent(task, LOGITS, labels), task, EXAMPLES)

    assert list(found) == list(task.metrics)
    for name, tally in found.items():
        metric = task.metrics[name]
        np.testing.assert_array_equal(tally, metric.tally(LOGITS, labels, *task.objectives))
        assert tally.dtype == metric.form(loss, OUTPUTS)[0]


def test_a_few_examples_take_a_few_bytes() -> None:
    task = task_of(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, Metric.ACCURACY, Metric.AUC)

    assert len(sent(task, LOGITS, CLASSES)) < 4 * EXAMPLES * OUTPUTS


def test_histograms_of_many_outputs_take_no_more_than_one() -> None:
    """And the areas are nearly those of all bins."""
    examples = 30_000
    outputs = tuple(Output((1,), True, f"is-{number}", (Metric.AUC, Metric.ACCURACY)) for number in range(MAX_ENDS))
    losses = {output.name: OutputLoss(Loss.BINARY_CROSSENTROPY) for output in outputs}
    task = msgspec.structs.replace(
        task_of(Loss.SPARSE_CATEGORICAL_CROSSENTROPY), outputs=outputs, training=Training(1, losses=losses)
    )
    tallies = {}
    for form in task.output_forms:
        labels = (Keyed(0, form.name).uniform(examples, 0.0, 1.0) > 0.7).astype(np.float32)[:, np.newaxis]
        logits = labels + Keyed(1, form.name).uniform(examples, -7.0, 7.0)[:, np.newaxis]
        for name, metric in form.named_metrics.items():
            tallies[name] = metric.tally(logits, labels, form.objective)

    blob = pack_tallies(tallies)
    found = unpack_tallies(blob, task, examples)

    assert len(blob) < MAX_TALLIES_BYTES < len(msgspec.msgpack.encode([tally.tolist() for tally in tallies.values()]))
    assert list(found) == list(tallies) == list(task.metrics)
    for name, metric in task.metrics.items():
        assert metric.result(found[name]) == pytest.approx(metric.result(tallies[name]), abs=1e-3)


RIGHT = [0, 30, 0, 50]


@pytest.mark.parametrize(
    "lists",
    [
        [],
        [RIGHT, RIGHT],
        [[0, 30, 0]],
        [[0, 51, 0, 50]],
        [[0, 30, 0, 2**40]],
        [[0, -1, 0, 50]],
        [[0, 0, 0, 50]],
        [[0, 30, 1, 50]],
        [[2**62, 30, 2**62, 50]],
        [[0, 30.0, 0, 50]],
        [[0, float("nan"), 0, 50]],
        "accuracy",
    ],
)
def test_what_is_no_tally_of_these_examples_is_refused(lists: object) -> None:
    task = task_of(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, Metric.ACCURACY)
    assert unpack_tallies(msgspec.msgpack.encode([RIGHT]), task, EXAMPLES)

    with pytest.raises(ProtocolError, match="its evaluation"):
        unpack_tallies(msgspec.msgpack.encode(lists), task, EXAMPLES)


def test_the_most_tallies_that_are_summed_fit_and_larger_ones_are_refused() -> None:
    task = task_of(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, Metric.ACCURACY)
    most = 2**62 // MOST_SUMMED
    (largest,) = unpack_tallies(msgspec.msgpack.encode([[0, 1, 0, most - 1]]), task, most).values()

    total = largest * MOST_SUMMED
    assert total.sum() == most * MOST_SUMMED
    with pytest.raises(ProtocolError, match=f"its evaluation counts more than {most}, .*: sums of all have no room"):
        unpack_tallies(msgspec.msgpack.encode([[0, 1, 0, most]]), task, most)


def test_what_is_longer_than_any_tallies_of_the_task_is_refused_unread() -> None:
    """Empty lists take 70 bytes each, and one byte here."""
    task = task_of(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, Metric.ACCURACY)
    most = most_tallies_bytes(task)

    with pytest.raises(ProtocolError, match=f"its evaluation takes {most + 1} bytes, and any of the task's {most}"):
        unpack_tallies(msgspec.msgpack.encode([[]] * (most - 2)), task, EXAMPLES)


@pytest.mark.parametrize(
    "numbers", [[1.0], [-1.0, 50.0], [float("inf"), 50.0], [1e300, 50.0], [1.0, float("nan")], [1, 2, 3]]
)
def test_what_are_no_sums_of_errors_is_refused(numbers: list[float]) -> None:
    task = task_of(Loss.MEAN_SQUARED_ERROR, Metric.MEAN_ABSOLUTE_ERROR)

    with pytest.raises(ProtocolError, match="mean_absolute_error is none of 50 examples"):
        unpack_tallies(msgspec.msgpack.encode([numbers]), task, EXAMPLES)


@given(blob=st.binary(max_size=60))
def test_any_bytes_are_tallies_or_refused(blob: bytes) -> None:
    task = task_of(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, Metric.ACCURACY, Metric.F1_SCORE)
    try:
        found = unpack_tallies(blob, task, EXAMPLES)
    except ProtocolError:
        return
    assert all((task.metrics[name].result(tally) or 0.0) <= 1.0 for name, tally in found.items())
