"""The description that exported files carry: a task's preprocessing, its labels, and what its outputs mean."""

from __future__ import annotations

from export.signature import signature_of
from fedprune.prediction.metadata import Input, Metadata, Output
from fedprune.task.bundle import Bundle


def metadata_of(bundle: Bundle) -> Metadata:
    """What is said of every format alike: quantised files tell their scales themselves."""
    task, signature = bundle.task, signature_of(bundle.network)
    return Metadata(
        task=task.name,
        data=task.data,
        inputs=tuple(
            Input(name, form.array, form.shape, form.vocabulary)
            for name, form in zip(signature.inputs, bundle.network.input_forms, strict=True)
        ),
        outputs=tuple(
            Output(name, form.shape, form.objective.loss, form.objective.from_logits)
            for name, form in zip(signature.outputs, task.output_forms, strict=True)
        ),
    )
