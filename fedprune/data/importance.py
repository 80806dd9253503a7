"""How much each example counts in training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedprune.data.dataset import Dataset
from fedprune.model.forms import OutputForm
from fedprune.model.tensors import Array


def importance_of(dataset: Dataset, outputs: Sequence[OutputForm]) -> Array | None:
    """How much each example counts in the loss of each output: its sample weight times the weight of its class.

    As in Keras, a loss is divided by the number of examples, not by the sum of their weights.

    Args:
        dataset: examples that fit `outputs`.

    Returns:
        float32 `[examples, outputs of the model]`; None if all count once.
    """
    if dataset.weight is None and not any(form.objective.class_weights for form in outputs):
        return None
    columns = [form.objective.example_weights(dataset.labels[form.array], form.shape[-1]) for form in outputs]
    importance = np.stack(columns, axis=1)
    return importance if dataset.weight is None else importance * dataset.weight[:, np.newaxis]
