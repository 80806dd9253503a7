"""From a Keras model to its training graph. Importing this module imports TensorFlow."""

from __future__ import annotations

from typing import Any

from export.architecture import variables_of
from export.training_graph.autodiff import Tape, Value
from export.training_graph.flatbuffer import Graph
from export.training_graph.layers import apply_layer, check_kind
from export.training_graph.losses import LOSSES
from export.training_graph.network import Network, refuse
from export.training_graph.normalization import Examples
from fedprune.keras.stack import keras
from fedprune.model.losses import Loss
from fedprune.runtime.training_graph import SIGNATURE


def make_training_graph(model: Any, loss: Loss, batch_size: int) -> bytes:
    """`model` as TFLite of builtin ops that trains in batches of `batch_size`; see `fedprune.runtime.training_graph`.

    Raises `NoTrainingGraph`, naming the layer, for what is not supported.
    """
    graph = Graph()
    tape = Tape(graph)
    x = graph.input("x", (batch_size, *model.input_shape[1:]))
    y = graph.input("y", (batch_size, *model.output_shape[1:]))
    weight = graph.input("weight", (batch_size, 1))
    count = graph.sum(weight, 0)
    examples = Examples(share=graph.divide(weight, count), count=graph.reshape(count, (1,)))
    trainable = {variable.ref() for variable in model.trainable_variables}
    weights = {
        variable.ref(): tape.leaf(
            graph.input(f"w{row}", tuple(variable.shape)), differentiable=variable.ref() in trainable
        )
        for row, variable in enumerate(model.weights)
    }
    net = Network(tape, weights, examples)
    (output,) = _apply_model(net, model, [tape.leaf(x, differentiable=False)])
    losses = [LOSSES[loss](tape, output, y, examples.share), *net.penalties]
    gradients = tape.gradients(losses)
    for layer, _, variable in variables_of(model):
        if variable.ref() in trainable and weights[variable.ref()] not in gradients:
            refuse(layer, "a weight that the output does not depend on", "trainable = False, or a model without it")
    total = losses[0].tensor
    for penalty in net.penalties:
        total = graph.add(total, penalty.tensor)
    outputs = {"loss": total}
    for row, variable in enumerate(model.weights):
        if variable.ref() in trainable:
            outputs[f"g{row}"] = gradients[weights[variable.ref()]]
        elif variable.ref() in net.moved:
            outputs[f"s{row}"] = net.moved[variable.ref()]
    return graph.finish(SIGNATURE, outputs)


def _apply_model(net: Network, model: Any, inputs: list[Value]) -> list[Value]:
    """Keras' graph of layers, from its inputs to its outputs; models may be layers of models."""
    values = {str(id(tensor)): value for tensor, value in zip(model.inputs, inputs, strict=True)}
    for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True):
        for node in nodes:
            if node.is_input:
                continue
            outputs = _apply_node(net, node, [values[tensor] for tensor in node.flat_input_ids])
            values |= zip(node.flat_output_ids, outputs, strict=True)
    return [values[str(id(tensor))] for tensor in model.outputs]


def _apply_node(net: Network, node: Any, inputs: list[Value]) -> list[Value]:
    layer = node.layer
    if not isinstance(layer, keras.Model):
        check_kind(layer)
    arguments = [name for name, argument in node.call_kwargs.items() if argument is not None]
    if arguments:
        refuse(layer, f"a call with {', '.join(arguments)}", "a call without")
    if isinstance(layer, keras.Model):
        return _apply_model(net, layer, inputs)
    return [apply_layer(net, layer, inputs)]
