"""Walking through a Keras model's calls, those of nested models among them. Importing this imports TensorFlow."""

from __future__ import annotations

from typing import Any

from export.architecture import tensor_table, variables_of
from export.describing.draft import Draft
from export.describing.layers import LAYERS, check_common
from export.describing.refusal import label, refuse
from fedprune.errors import TaskError
from fedprune.keras.stack import keras, tf
from fedprune.model.tensors import TensorSpec, TensorTable
from fedprune.network.description import Network, pack_network, parse_network

_FUNCTIONAL = keras.src.engine.functional.Functional
_OWN_CALLS = (_FUNCTIONAL.call, keras.Sequential.call)


def describe(model: Any) -> tuple[Network, tuple[TensorSpec, ...]]:
    """The description of a Functional or Sequential model, and its tensor table, whose rows the layers name.

    Raises `TaskError`, naming the layer and what would work, for what a description does not have.
    """
    _check_model(model, model)
    _check_ends(model)
    table = tensor_table(model)
    names = {variable.ref(): spec.name for spec, variable in zip(table, model.weights, strict=True)}
    draft = Draft(model.name, tuple(model.input_shape[1:]), names)
    (output,) = _Walk(draft).model(model, [0], training=None)
    network = draft.network(output)
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

    def model(self, model: Any, inputs: list[int], training: bool | None) -> list[int]:
        """Keras' graph of layers, from its inputs to its outputs, in the order in which Keras runs it."""
        values = dict(zip((str(id(tensor)) for tensor in model.inputs), inputs, strict=True))
        for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True):
            for node in nodes:
                if not node.is_input:
                    outputs = self._call(node, [values[tensor] for tensor in node.flat_input_ids], training)
                    values |= zip(node.flat_output_ids, outputs, strict=True)
        return [values[str(id(tensor))] for tensor in model.outputs]

    def _call(self, node: Any, inputs: list[int], training: bool | None) -> list[int]:
        layer = node.layer
        if isinstance(layer, keras.Model):
            training = _check_arguments(node, training)
            _check_model(layer, layer)
            for tensor, value in zip(layer.inputs, inputs, strict=True):
                _check_shape(layer, tensor.shape, self._draft.shape(value))
            return self.model(layer, inputs, training)
        if type(layer) not in LAYERS:
            kinds = ", ".join(sorted(kind.__name__ for kind in LAYERS))
            refuse(layer, "a layer of this kind", f"layers of these: {kinds}")
        training = _check_arguments(node, training)
        check_common(layer)
        if training is False and isinstance(layer, keras.layers.Dropout):
            return inputs
        if training is False and isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            refuse(layer, "a call with training = False of a layer that is not frozen", "trainable = False")
        value = LAYERS[type(layer)](self._draft, layer, inputs)
        (output,) = tf.nest.flatten(node.outputs)
        _check_shape(layer, output.shape, self._draft.shape(value))
        return [value]


def _check_model(model: Any, layer: Any) -> None:
    if not isinstance(model, _FUNCTIONAL) or type(model).call not in _OWN_CALLS:
        refuse(layer, "a model with code of its own", "a Functional or Sequential model")
    if not model.built or not getattr(model, "_nodes_by_depth", None):
        refuse(layer, "a model of unknown input shape", "one that begins with an Input layer")


def _check_ends(model: Any) -> None:
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise TaskError(f"model {model.name!r} must have one input, of a known shape, and one output")
    (x,) = model.inputs
    batch, *input_shape = x.shape
    if batch is not None or None in input_shape or x.dtype != tf.float32:
        raise TaskError(
            f"model {model.name!r} takes {x.dtype.name}{list(x.shape)}; "
            "it must take float32 of a fixed shape, in batches of any size"
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
    if given is None:
        return training
    if given is not False and given != 0:
        refuse(layer, "a call with training = True", "a call without")
    return False


def _check_shape(layer: Any, expected: Any, found: tuple[int, ...]) -> None:
    """Keras knows less of shapes in models that take any size, but never other ones."""
    if not tf.TensorShape((None, *found)).is_compatible_with(expected):
        refuse(layer, f"a shape of {list(found)} where Keras has {list(expected[1:])}", "equal shapes")


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
