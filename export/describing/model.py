"""Walking through a Keras model's calls, those of nested models among them. Importing this imports TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from export.architecture import tensor_table, variables_of
from export.describing.masks import attention_masks, check_masks, heeded_masks, output_mask
from export.describing.operators import IS_OPERATOR, Made, Value, read_operator
from fedprune.errors import TaskError
from fedprune.keras.attention import attend
from fedprune.keras.augmentation import AUGMENTATION
from fedprune.keras.draft import Draft
from fedprune.keras.layers import READERS
from fedprune.keras.masks import leave_out
from fedprune.keras.pointwise import NOISY
from fedprune.keras.recurrent import check_recurrent_dropout
from fedprune.keras.refusal import check_common, label, refuse
from fedprune.keras.stack import keras, tf
from fedprune.model.forms import MAX_ENDS, MAX_NAME, is_name
from fedprune.model.tensors import TensorSpec, TensorTable
from fedprune.network.description import Network, pack_network, parse_network

_FUNCTIONAL = keras.src.engine.functional.Functional
_ATTENTION_ARGUMENTS = (
    "query", "value", "key", "attention_mask", "return_attention_scores", "training", "use_causal_mask",
)  # fmt: skip
"""The arguments of MultiHeadAttention, in Keras' order."""
_OWN_CALLS = (_FUNCTIONAL.call, keras.Sequential.call)


def describe(model: Any) -> tuple[Network, tuple[TensorSpec, ...]]:
    """The description of a Functional or Sequential model, and its tensor table, whose rows the layers name.

    Raises `TaskError`, naming the layer and what would work, for what a description does not have.
    """
    _check_model(model)
    check_recurrent_dropout(model)
    _check_ends(model)
    table = tensor_table(model)
    names = {variable.ref(): spec.name for spec, variable in zip(table, model.weights, strict=True)}
    shapes = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    draft = Draft(model.name, dict(zip(model.input_names, shapes, strict=True)), names)
    made = _Walk(draft).model(model, [Value(number) for number in range(len(shapes))], training=None)
    outputs = [output for output in made if isinstance(output, Value)]
    if len(outputs) < len(made):
        raise TaskError(f"model {model.name!r} returns a shape; it must return rows of numbers")
    named = dict(zip(model.output_names, (output.number for output in outputs), strict=True))
    network = draft.network(named, [output.mask for output in outputs])
    _check_used(model, network, names)
    try:
        network = parse_network(pack_network(network))
        network.check(TensorTable(table))
    except TaskError as error:
        raise TaskError(f"model {model.name[:60]!r} cannot be described: {error}") from error
    return network, table


class _Walk:
    def __init__(self, draft: Draft) -> None:
        self._draft = draft

    def model(self, model: Any, inputs: list[Made], training: bool | None) -> list[Made]:
        """Keras' graph of layers, from its inputs to its outputs, in the order in which Keras runs it."""
        made = dict(zip((str(id(tensor)) for tensor in model.inputs), inputs, strict=True))
        for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True):
            for node in nodes:
                if not node.is_input:
                    made |= zip(node.flat_output_ids, self._call(node, made, training), strict=True)
        return [made[str(id(tensor))] for tensor in model.outputs]

    def _call(self, node: Any, made: Mapping[str, Made], training: bool | None) -> list[Made]:
        layer = node.layer
        if isinstance(layer, IS_OPERATOR):
            return [self._operator(node, made)]
        if isinstance(layer, keras.layers.MultiHeadAttention):
            return [self._attention(node, made, training)]
        if not isinstance(layer, keras.Model | keras.layers.Masking) and type(layer) not in READERS:
            others = (keras.layers.Masking, keras.layers.MultiHeadAttention)
            kinds = ", ".join(sorted(kind.__name__ for kind in [*READERS, *others]))
            refuse(layer, "a layer of this kind", f"layers of these: {kinds}")
        inputs = [made[tensor] for tensor in node.flat_input_ids]
        if not all(isinstance(value, Value) for value in inputs):
            refuse(layer, "a shape as its input", "values")
        training = _check_arguments(node, training)
        if isinstance(layer, keras.Model):
            return self._nested(layer, inputs, training)
        return [self._layer(node, [value for value in inputs if isinstance(value, Value)], training)]

    def _nested(self, model: Any, inputs: list[Made], training: bool | None) -> list[Made]:
        _check_model(model)
        for tensor, value in zip(model.inputs, inputs, strict=True):
            self._check_shape(model, tensor, value)
        return self.model(model, inputs, training)

    def _layer(self, node: Any, inputs: list[Value], training: bool | None) -> Made:
        layer, numbers, masks = node.layer, [value.number for value in inputs], [value.mask for value in inputs]
        check_common(layer)
        if training is False and isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            refuse(layer, "a call with training = False of a layer that is not frozen", "trainable = False")
        if training is False and isinstance(layer, (*NOISY, *AUGMENTATION)):
            return inputs[0]
        if isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional) and len(inputs) > 1:
            refuse(layer, "a call with an initial state", "a call without one")
        check_masks(layer, masks)
        if isinstance(layer, keras.layers.Masking):
            value = Value(*leave_out(self._draft, layer, *numbers))
        else:
            reader = READERS[type(layer)]
            number = reader.read(self._draft, layer, [*numbers, *heeded_masks(layer, masks)])
            value = Value(number, output_mask(self._draft, layer, numbers, masks))
        self._check_shape(layer, node.outputs, value)
        return value

    def _attention(self, node: Any, made: Mapping[str, Made], training: bool | None) -> Made:
        """The one layer whose inputs are arguments of their own."""
        layer = node.layer
        check_common(layer)
        given = dict(zip(_ATTENTION_ARGUMENTS, node.call_args, strict=False)) | dict(node.call_kwargs)
        causal = bool(given.pop("use_causal_mask", False))
        training = _check_training(layer, given.pop("training", None), training)
        tensors = [given.pop(name) for name in ("query", "value", "key") if given.get(name) is not None]
        inputs = [made.get(str(id(tensor))) for tensor in tensors]
        if any(argument is not None and argument is not False for argument in given.values()):
            refuse(layer, f"a call with {', '.join(given)}", "a call with query, value, key and use_causal_mask")
        if len(inputs) < 2 or not all(isinstance(value, Value) for value in inputs):
            refuse(layer, "a call with constants", "a call with the outputs of layers alone")
        values = [value for value in inputs if isinstance(value, Value)]
        masks = attention_masks(self._draft, layer, [value.mask for value in values])
        numbers = [value.number for value in values]
        number = attend(self._draft, layer, numbers, masks, causal=causal, training=training)
        value = Value(number, values[0].mask)
        self._check_shape(layer, node.outputs, value)
        return value

    def _operator(self, node: Any, made: Mapping[str, Made]) -> Made:
        def argument(given: Any) -> Any:
            if str(id(given)) in made and keras.backend.is_keras_tensor(given):
                return made[str(id(given))]
            if isinstance(given, list | tuple) and not isinstance(given, tf.TensorShape):
                return [argument(entry) for entry in given]
            return given.numpy() if isinstance(given, tf.Tensor | tf.Variable) else given

        named = {name: argument(given) for name, given in node.call_kwargs.items()}
        try:
            value = read_operator(self._draft, node.layer, [argument(given) for given in node.call_args], named)
        except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
            refuse(node.layer, f"arguments of another form ({str(error)[:80]})", "one value and constants")
        if isinstance(value, Value):
            self._check_shape(node.layer, node.outputs, value)
        return value

    def _check_shape(self, layer: Any, tensor: Any, value: Made) -> None:
        """Keras knows less of shapes in models that take any size, but never other ones."""
        found = self._draft.shape(value.number) if isinstance(value, Value) else ()
        if not tf.TensorShape((None, *found)).is_compatible_with(tensor.shape):
            refuse(layer, f"a shape of {list(found)} where Keras has {list(tensor.shape[1:])}", "equal shapes")


def _check_model(model: Any) -> None:
    if not isinstance(model, _FUNCTIONAL) or type(model).call not in _OWN_CALLS:
        refuse(model, "a model with code of its own", "a Functional or Sequential model")
    if not model.built or not getattr(model, "_nodes_by_depth", None):
        refuse(model, "a model of unknown input shape", "one that begins with an Input layer")


def _check_ends(model: Any) -> None:
    _check_nesting(model)
    ids = any(isinstance(layer, keras.layers.Embedding) for layer in model.submodules)
    for x in model.inputs:
        batch, *shape = x.shape
        if batch is not None or None in shape or x.dtype not in (tf.float32, *((tf.int32, tf.int64) if ids else ())):
            raise TaskError(
                f"model {model.name!r} takes {x.dtype.name}{list(x.shape)}; "
                "it must take float32, or int32 for Embedding layers, of a fixed shape, in batches of any size"
            )
    for what, names in (("inputs", model.input_names), ("outputs", model.output_names)):
        if len(names) > MAX_ENDS:
            raise TaskError(f"model {model.name!r} has {len(names)} {what}; a task has at most {MAX_ENDS}")
        if len(names) > 1 and (wrong := [name for name in names if not is_name(name)]):
            raise TaskError(
                f"model {model.name!r} calls one of its {what} {wrong[0][:60]!r}; name the layer with letters and "
                f"digits, '_', '-' and '.', at most {MAX_NAME}"
            )


def _check_nesting(model: Any) -> None:
    """Raise `TaskError` unless inputs and outputs are a single one each, or a list of several."""
    for what, ends, nested in (("inputs", model.inputs, model.input), ("outputs", model.outputs, model.output)):
        if not ends or isinstance(nested, list) != (len(ends) > 1) or isinstance(nested, dict | tuple):
            raise TaskError(
                f"model {model.name!r} has its {what} in a dict or a tuple; make it of a single one, as "
                "keras.Model(x, y), or of lists, as keras.Model([x, z], [y, w])"
            )


def _check_arguments(node: Any, training: bool | None) -> bool | None:
    """What `training` is within the call. Raises `TaskError` for all other arguments."""
    layer, arguments = node.layer, dict(node.call_kwargs)
    first, *others = node.call_args or [None]
    if isinstance(first, dict) or len(tf.nest.flatten(first)) != len(node.flat_input_ids):
        refuse(layer, "a call with constants, keywords or a dict", "a call with the outputs of layers alone")
    given = arguments.pop("training", None)
    if any(argument is not None for argument in [*others, *arguments.values()]):
        named = ", ".join(name for name, argument in arguments.items() if argument is not None)
        refuse(layer, f"a call with {named or 'more arguments than its input'}", "a call without")
    return _check_training(layer, given, training)


def _check_training(layer: Any, given: Any, training: bool | None) -> bool | None:
    if given is None:
        return training
    if given is not False and given != 0:
        refuse(layer, "a call with training = True", "a call without")
    return False


def _check_used(model: Any, network: Network, names: dict[Any, str]) -> None:
    """Raise `TaskError` if the output does not depend on some tensor."""
    shapes, used = network.shapes(), set[str]()
    for layer, call in network.steps():
        used.update(layer.tensors(*(shapes[value] for value in call.inputs)))
    for owner, attribute, variable in variables_of(model):
        if names.get(variable.ref(), "") not in used and variable.ref() in names:
            raise TaskError(
                f"{label(owner)}: the output does not depend on its {attribute[:40]}; leave the layer out of the model"
            )
    if unused := sorted(set(names.values()) - used):
        raise TaskError(f"model {model.name!r}: the output does not depend on {unused[0][:80]!r}; leave it out")
