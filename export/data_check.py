"""The check that a task's data, as they are described, are what its model takes and its loss learns."""

from __future__ import annotations

from collections.abc import Sequence

from fedprune.data.description import Arrays, Data, Normalization, Text
from fedprune.data.normalization import scale_of, targets_of
from fedprune.errors import TaskError
from fedprune.model.forms import InputForm, OutputForm
from fedprune.model.losses import LabelForm


def check_data(data: Data, inputs: Sequence[InputForm], outputs: Sequence[OutputForm]) -> None:
    """Raise `TaskError` if examples would not fit the model. Of arrays only the devices know."""
    _check_targets(targets_of(data), outputs)
    if isinstance(data, Arrays):
        if data.normalize is not None and len(inputs) > 1:
            raise TaskError("[data.normalize] is for models with one input; normalise the others before you save them")
        if data.normalize is not None and inputs[0].vocabulary is not None:
            raise TaskError("[data.normalize] is for numbers, and the model takes token ids; leave it out")
        return
    if (len(inputs), len(outputs)) != (1, 1):
        raise TaskError("[data] makes one input and one label, the model has several; save arrays x_NAME and y_NAME")
    _check_shape(data.example_shape, inputs[0].shape)
    _check_ids(data, inputs[0].vocabulary)
    _check_labels(len(data.labels), outputs[0])


def _check_targets(targets: Normalization | None, outputs: Sequence[OutputForm]) -> None:
    if targets is None:
        return
    if len(outputs) > 1 or outputs[0].objective.loss.rule.labels is not LabelForm.NUMBERS:
        raise TaskError(
            "[data.targets] normalises the numbers that a model with one output learns; leave it out, or set a loss of "
            "numbers, such as mean_squared_error"
        )
    found, columns = len(scale_of(targets)), outputs[0].shape[-1]
    if not targets.lacks_statistics and found not in (1, columns):
        raise TaskError(
            f"[data.targets] has statistics of {found} numbers, the model returns {columns}; give one of each"
        )


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


def _check_labels(names: int, form: OutputForm) -> None:
    """Without names labels are numbers, one for each example."""
    (*places, outputs), loss = form.shape, form.objective.loss
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
            f"model with outputs {list(form.shape)} does not learn that; it takes {needed}"
        )


def _without_channel(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:-1] if shape[-1:] == (1,) else shape
