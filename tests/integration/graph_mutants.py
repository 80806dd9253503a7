"""Training graphs that are not what they should be, for tests; those with one mistake come from the zoo."""

from __future__ import annotations

from ai_edge_litert import schema_py_generated as schema

from benchmarks.zoo.mutants import mutants, opened, packed

__all__ = ["mutants", "with_newer_operators", "with_scalar", "without_output"]


def without_output(graph: bytes, name: str) -> bytes:
    """The graph, which does not return the output called `name`."""
    model = opened(graph)
    (signature,) = model.signatureDefs
    (lost,) = (output for output in signature.outputs if output.name in (name, name.encode()))
    signature.outputs.remove(lost)
    model.subgraphs[0].outputs = [index for index in model.subgraphs[0].outputs if index != lost.tensorIndex]
    return packed(model)


def with_scalar(graph: bytes, name: str) -> bytes:
    """The graph whose input called `name` has no axes."""
    model = opened(graph)
    (signature,) = model.signatureDefs
    (changed,) = (entry for entry in signature.inputs if entry.name in (name, name.encode()))
    tensors = model.subgraphs[0].tensors
    tensors.append(schema.TensorT(shape=[], type=schema.TensorType.FLOAT32, name="scalar", hasRank=True))
    place, inputs = len(tensors) - 1, model.subgraphs[0].inputs
    model.subgraphs[0].inputs = [place if index == changed.tensorIndex else index for index in inputs]
    changed.tensorIndex = place
    return packed(model)


def with_newer_operators(graph: bytes) -> bytes:
    """The graph, whose operators have a version that no runtime has."""
    model = opened(graph)
    for code in model.operatorCodes:
        code.version = 99
    return packed(model)
