"""The description that a file of a task's model carries: the preprocessing, the labels, and what its outputs mean."""

from __future__ import annotations

from collections.abc import Sequence

from fedprune.prediction.metadata import Input, Metadata, Output
from fedprune.task.bundle import Bundle


def metadata_of(bundle: Bundle, inputs: Sequence[str], outputs: Sequence[str]) -> Metadata:
    """What is said of every format alike: quantised files tell their scales themselves.

    Args:
        inputs: the names of the file's inputs, in the network's order. So are `outputs`.
    """
    task = bundle.task
    return Metadata(
        task=task.name,
        data=task.data,
        inputs=tuple(
            Input(name, form.array, form.shape, form.vocabulary)
            for name, form in zip(inputs, bundle.network.input_forms, strict=True)
        ),
        outputs=tuple(
            Output(name, form.shape, form.objective.loss, form.objective.from_logits)
            for name, form in zip(outputs, task.output_forms, strict=True)
        ),
    )
