"""The check that a task's data, as they are described, are what its model takes and its loss learns."""

from __future__ import annotations

from fedprune.data.description import Arrays, Data, Text
from fedprune.errors import TaskError
from fedprune.model.losses import LabelForm, Loss


def check_data(
    data: Data, input_shape: tuple[int, ...], output_shape: tuple[int, ...], loss: Loss, vocabulary: int | None
) -> None:
    """Raise `TaskError` if examples would not fit. Of arrays only the devices know.

    `vocabulary` is the number of ids that the model knows; None if it takes numbers.
    """
    if isinstance(data, Arrays):
        return
    _check_shape(data.example_shape, input_shape)
    _check_ids(data, vocabulary)
    _check_labels(len(data.labels), output_shape, loss)


def _check_shape(made: tuple[int, ...], taken: tuple[int, ...]) -> None:
    if _without_channel(made) != _without_channel(taken):
        raise TaskError(
            f"[data] makes examples of {list(made)}, the model takes {list(taken)}; correct [data], or the model"
        )


def _check_ids(data: Data, vocabulary: int | None) -> None:
    ids = data.tokenizer.ids if isinstance(data, Text) else None
    if (ids is None) != (vocabulary is None):
        made, taken = ("numbers", "token ids") if ids is None else ("token ids", "numbers")
        raise TaskError(f"[data] makes {made}, the model takes {taken}; correct [data], or the model")
    if ids is not None and vocabulary is not None and ids > vocabulary:
        raise TaskError(
            f"data.tokenizer makes ids below {ids}, the model knows those below {vocabulary}; enlarge its Embedding, "
            "or take fewer words"
        )


def _check_labels(names: int, output_shape: tuple[int, ...], loss: Loss) -> None:
    """Without names labels are numbers, one for each example."""
    *places, outputs = output_shape
    wanted = {
        LabelForm.CLASS_NUMBERS: (outputs, f"names of its {outputs} classes in data.labels"),
        LabelForm.BITS: (2 if outputs == 1 else None, "two names in data.labels, and a model with 1 output"),
        LabelForm.PROBABILITIES: (None, 'class numbers: set training.loss = "sparse_categorical_crossentropy"'),
        LabelForm.NUMBERS: (0 if outputs == 1 else None, "numbers: leave out data.labels, and give the model 1 output"),
    }
    count, needed = wanted[loss.rule.labels]
    if places or names != count:
        raise TaskError(
            f"[data] gives an example one label ({f'of {names} names' if names else 'a number'}), and {loss} of a "
            f"model with outputs {list(output_shape)} does not learn that; it takes {needed}"
        )


def _without_channel(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:-1] if shape[-1:] == (1,) else shape
