"""Descriptions of networks: what was packed is parsed, and what is forged is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedprune.errors import TaskError
from fedprune.model.forms import MAX_ENDS, MAX_NAME, InputForm
from fedprune.model.tensors import TensorClass, TensorSpec, TensorTable
from fedprune.network.description import (
    MAX_BYTES,
    MAX_CALLS,
    MAX_RANK,
    Call,
    Network,
    Penalty,
    pack_network,
    parse_network,
)
from fedprune.network.layers import (
    MAX_SIZE,
    Activation,
    Add,
    AnyLayer,
    Concatenate,
    Dropout,
    Function,
    IdMask,
    Merge,
    Operation,
    Reshape,
    Reversal,
    Shape,
    StepMask,
    ZeroPadding,
)
from tests.described import convolution, dense, embedding, normalization

# A whole network

NETWORK = Network(
    name="small",
    inputs=((6, 5),),
    layers=(
        convolution((3,), (1,)),
        normalization(),
        Reshape(name="r", shape=(20,)),
        dense(bias="d/bias"),
    ),
    calls=(Call(0, (0,)), Call(1, (1,)), Call(2, (2,)), Call(3, (3,))),
    outputs=(4,),
    penalties=(Penalty("d/kernel", l2=0.1),),
)


def spec(name: str, shape: Shape, kind: TensorClass, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, shape, dtype, kind, name.partition("/")[0])


ROWS = (
    spec("c/kernel", (3, 5, 5), TensorClass.PRUNABLE),
    spec("g", (5,), TensorClass.DENSE),
    spec("m", (5,), TensorClass.STATISTICS),
    spec("v", (5,), TensorClass.STATISTICS),
    spec("d/kernel", (20, 4), TensorClass.PRUNABLE),
    spec("d/bias", (4,), TensorClass.DENSE),
)


def changed(**changes: Any) -> Network:
    return msgspec.structs.replace(NETWORK, **changes)


def test_what_was_packed_is_parsed_and_fits() -> None:
    network = parse_network(pack_network(NETWORK))

    network.check(TensorTable(ROWS))

    assert network == NETWORK
    assert network.shapes() == ((6, 5), (4, 5), (4, 5), (20,), (4,))


def test_a_layer_may_be_called_twice_on_one_shape() -> None:
    twice = Network(
        "twice", ((5,),), (dense(5), dense(3, bias=None)), (Call(0, (0,)), Call(0, (1,)), Call(1, (2,))), (3,)
    )
    layers = (twice.layers[0], msgspec.structs.replace(twice.layers[1], name="e", kernel="e/kernel"))
    table = TensorTable(
        (spec("d/kernel", (5, 5), TensorClass.PRUNABLE), spec("e/kernel", (5, 3), TensorClass.PRUNABLE))
    )
    msgspec.structs.replace(twice, layers=layers).check(table)


FORGED: dict[str, tuple[Network, str]] = {
    "a cycle": (changed(calls=(Call(0, (1,)), *NETWORK.calls[1:])), "layer 'c' takes what comes later"),
    "its own output": (changed(calls=(*NETWORK.calls[:3], Call(3, (4,)))), "layer 'd' takes what comes later"),
    "no such layer": (changed(calls=(Call(9, (0,)), *NETWORK.calls[1:])), "layer 9 is called, of 4"),
    "no such output": (changed(outputs=(5,)), "an output is a value that nothing makes"),
    "two of one name": (
        changed(layers=(*NETWORK.layers[:3], msgspec.structs.replace(dense(bias="d/bias"), name="c"))),
        "two layers have one name, or one is never called",
    ),
    "never called": (changed(layers=(*NETWORK.layers, Dropout(name="o", rate=0.1))), "one is never called"),
    "a tensor of two layers": (
        changed(layers=(*NETWORK.layers[:3], dense(bias="g"))),
        "layer 'd' holds tensor 'g', which has another shape or another layer elsewhere",
    ),
    "a layer on two shapes": (
        Network("two", ((5,),), (dense(4),), (Call(0, (0,)), Call(0, (1,))), (2,)),
        "layer 'd' holds tensor 'd/kernel', which has another shape",
    ),
    "a tensor that is not in the table": (
        changed(layers=(*NETWORK.layers[:3], dense(bias="d/other"))),
        r"tensor 'd/bias' is \[4\] in the table, and not there in the layers",
    ),
    "another size": (
        changed(layers=(*NETWORK.layers[:3], dense(3, bias="d/bias"))),
        r"tensor 'd/bias' is \[4\] in the table, and \[3\] in the layers",
    ),
    "a penalty of nothing": (changed(penalties=(Penalty("x"),)), "a penalty of 'x', which has another or is no weight"),
    "a value that is too large": (
        Network("large", ((2**12, 2**12),), (ZeroPadding(name="z", padding=((0, 1),)),), (Call(0, (0,)),), (1,)),
        rf"layer 'z' makes the shape \[4097, 4096\], larger than {MAX_SIZE} scalars or {MAX_RANK} axes",
    ),
    "values that are too large together": (
        Network(
            "wide",
            ((2**12, 2**12),),
            tuple(Activation(name=f"a{number}", function=Function.RELU) for number in range(16)),
            tuple(Call(number, (number,)) for number in range(16)),
            (16,),
        ),
        "more than 268435456 scalars an example; make it smaller",
    ),
}


@pytest.mark.parametrize(("network", "reason"), FORGED.values(), ids=FORGED.keys())
def test_a_forged_network_is_refused_in_one_line(network: Network, reason: str) -> None:
    with pytest.raises(TaskError, match=reason) as caught:
        network.check(TensorTable(ROWS))
    assert "\n" not in str(caught.value)


KINDS: dict[str, tuple[dict[str, TensorClass], str]] = {
    "integers": ({"d/bias": TensorClass.INTEGER}, "tensor 'd/bias' cannot be integer"),
    "statistics that nothing moves": ({"d/bias": TensorClass.STATISTICS}, "tensor 'd/bias' cannot be statistics"),
    "statistics that are trained": ({"m": TensorClass.DENSE}, "tensor 'm' is a statistic, not dense"),
    "half frozen": ({"d/bias": TensorClass.FROZEN}, "layer 'd' is frozen in part; freeze the whole layer, or none"),
    "a frozen mean": ({"m": TensorClass.FROZEN}, "layer 'b' is frozen in part"),
}


@pytest.mark.parametrize(("kinds", "reason"), KINDS.values(), ids=KINDS.keys())
def test_tensors_of_another_class_than_their_layers_are_refused(kinds: dict[str, TensorClass], reason: str) -> None:
    rows = tuple(msgspec.structs.replace(row, kind=kinds.get(row.name, row.kind)) for row in ROWS)
    with pytest.raises(TaskError, match=reason):
        NETWORK.check(TensorTable(rows))


def test_a_frozen_layer_keeps_its_statistics() -> None:
    kinds = dict.fromkeys("gmv", TensorClass.FROZEN)
    rows = tuple(msgspec.structs.replace(row, kind=kinds.get(row.name, row.kind)) for row in ROWS)
    NETWORK.check(TensorTable(rows))


# As JSON

Change = Callable[[dict[str, Any]], object]


def layer(number: int, **changes: Any) -> Change:
    return lambda network: network["layers"][number].update(changes)


UNREADABLE: dict[str, Change] = {
    "a kind that nobody knows": layer(0, kind="lambda"),
    "no kind": lambda network: network["layers"][0].pop("kind"),
    "an attribute that nobody knows": layer(0, code="import os"),
    "a name too long": layer(0, name="x" * 201),
    "no name": layer(0, name=""),
    "too many filters": layer(0, filters=2**16 + 1),
    "no filters": layer(0, filters=0),
    "filters that are no number": layer(0, filters="many"),
    "half a filter": layer(0, filters=1.5),
    "three axes": layer(0, size=[3, 3, 3]),
    "no axes": layer(0, size=[]),
    "negative strides": layer(0, strides=[-1]),
    "another padding": layer(0, padding="reflect"),
    "a negative epsilon": layer(1, epsilon=-1.0),
    "a momentum above 1": layer(1, momentum=1.5),
    "no mean": layer(1, mean=None),
    "an empty axis": layer(2, shape=[0]),
    "five axes": layer(2, shape=[1, 1, 1, 1, 20]),
    "a call without inputs": lambda network: network["calls"].__setitem__(0, [0, []]),
    "a negative value": lambda network: network["calls"].__setitem__(0, [0, [-1]]),
    "an absurd value": lambda network: network["calls"].__setitem__(0, [0, [2**40]]),
    "a call with more": lambda network: network["calls"].__setitem__(0, [0, [0], {"training": True}]),
    "too many inputs": lambda network: network.update(inputs=[[6, 5]] * (MAX_ENDS + 1)),
    "an open input": lambda network: network.update(inputs=[[None, 5]]),
    "an absurd input": lambda network: network.update(inputs=[[2**40]]),
    "too many outputs": lambda network: network.update(outputs=[4] * (MAX_ENDS + 1)),
    "a name that is no part of others": lambda network: network.update(output_names=["a b", "c"]),
    "a name that is a path": lambda network: network.update(input_names=["../x"]),
    "a long name": lambda network: network.update(input_names=["x" * (MAX_NAME + 1)]),
    "no output": lambda network: network.update(outputs=[]),
    "a negative penalty": lambda network: network.update(penalties=[{"tensor": "g", "l2": -1.0}]),
    "a field that nobody knows": lambda network: network.update(colour="red"),
    "too many calls": lambda network: network.update(calls=[[0, [0]]] * (MAX_CALLS + 1)),
    "another version": lambda network: network.update(version=2),
}


@pytest.mark.parametrize("change", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_json_that_is_no_description_is_refused_in_one_line(change: Change) -> None:
    network = msgspec.json.decode(pack_network(NETWORK))
    change(network)

    with pytest.raises(
        TaskError, match=r"network\.json: .*; upgrade (fedprune, or build the task with this version of fedprune|it)"
    ) as caught:
        parse_network(msgspec.json.encode(network))

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b" " * MAX_BYTES + pack_network(NETWORK)])
def test_bytes_that_are_no_description_are_refused(text: bytes) -> None:
    with pytest.raises(TaskError, match=r"network\.json: "):
        parse_network(text)


_EXTREMES: list[Any] = [None, True, -1, 0, 1, 2, 3, 2**16, 2**24, 2**31, 2**63, 0.5, 1e300, "", "same", "d/kernel", []]


@settings(max_examples=500)
@given(st.data())
def test_a_mutated_description_is_refused_or_has_shapes(data: st.DataObject) -> None:
    """Whatever a field is changed to, or taken from elsewhere in it."""
    network = msgspec.json.decode(pack_network(NETWORK))
    for _ in range(data.draw(st.integers(1, 3))):
        at: Any = network
        while True:
            places = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not places:
                break
            place = data.draw(st.sampled_from(places))
            if isinstance(at[place], dict | list) and at[place] and data.draw(st.integers(0, 4)):
                at = at[place]
                continue
            at[place] = data.draw(st.sampled_from(_EXTREMES))
            break
    with suppress(TaskError):
        parsed = parse_network(msgspec.json.encode(network))
        parsed.check(TensorTable(ROWS))
        assert len(parsed.shapes()) == len(parsed.inputs) + len(parsed.calls)


def joined(**changes: Any) -> Network:
    """Ids and numbers in, two values out."""
    layers = (embedding(), dense(), Concatenate(name="c", axis=1))
    calls = (Call(0, (0,)), Call(1, (1,)), Call(2, (2, 3)))
    names = {"input_names": ("word", "number"), "output_names": ("d", "c")}
    network = Network("joined", ((6,), (6, 3)), layers, calls, (3, 4), (), **names)
    return msgspec.structs.replace(network, **changes)


def test_inputs_and_outputs_have_names_and_each_input_its_own_numbers() -> None:
    network = parse_network(pack_network(joined()))

    assert network == joined()
    assert network.shapes() == ((6,), (6, 3), (6, 4), (6, 4), (6, 8))
    assert network.input_forms == (InputForm("x_word", (6,), 9), InputForm("x_number", (6, 3)))
    assert NETWORK.input_forms == (InputForm("x", (6, 5)),)


@pytest.mark.parametrize(
    ("network", "complaint"),
    [
        (joined(input_names=()), "several inputs need a name each, a single one has none"),
        (joined(input_names=("word",)), "several inputs need a name each"),
        (joined(input_names=("word", "word")), "several inputs need a name each"),
        (joined(output_names=("d", "c", "e")), "several outputs need a name each"),
        (joined(outputs=(4,)), "several outputs need a name each, a single one has none"),
        (joined(calls=(Call(0, (0,)), Call(1, (2,)), Call(2, (2, 3)))), "nothing takes input 'number'; leave it out"),
        (joined(outputs=(0, 4)), "an output is the ids that go in, which nothing can learn"),
    ],
)
def test_inputs_and_outputs_that_cannot_be_told_apart_or_used_are_refused(network: Network, complaint: str) -> None:
    with pytest.raises(TaskError, match=complaint):
        network.shapes()


def test_the_smallest_table_tells_which_ids_there_are() -> None:
    small, large = (msgspec.structs.replace(embedding(size), name=f"e{size}", table=f"e{size}") for size in (9, 50))
    both = Network("n", ((6,),), (large, small, Add(name="a")), (Call(0, (0,)), Call(1, (0,)), Call(2, (1, 2))), (3,))

    assert both.vocabularies == (9,)
    assert both.shapes()[-1] == (6, 4)


@pytest.mark.parametrize(
    ("layers", "calls"),
    [
        ((embedding(), Add(name="a")), (Call(0, (0,)), Call(1, (0, 0)))),
        ((Reversal(name="a"), embedding()), (Call(0, (0,)), Call(1, (1,)))),
        ((embedding(),), (Call(0, (0,)), Call(0, (1,)))),
    ],
    ids=["ids added", "ids reversed", "numbers looked up"],
)
def test_ids_go_to_embeddings_and_to_nothing_else(layers: tuple[AnyLayer, ...], calls: tuple[Call, ...]) -> None:
    with pytest.raises(TaskError, match="numbers as ids; give ids to Embedding layers and masks alone"):
        Network("n", ((6,),), layers, calls, (len(calls),)).shapes()


# The masks of outputs

PADDED = Network(
    name="padded",
    inputs=((6, 5), (6, 5)),
    layers=(
        StepMask(name="first", padding=0.0),
        StepMask(name="second", padding=1.0),
        Merge(name="both", operation=Operation.MULTIPLY),
        Merge(name="either", operation=Operation.MAXIMUM),
        Add(name="sum"),
        StepMask(name="late", padding=0.0),
    ),
    calls=(Call(0, (0,)), Call(1, (1,)), Call(2, (2, 3)), Call(3, (2, 3)), Call(4, (0, 1)), Call(5, (6,))),
    outputs=(6,),
    input_names=("left", "right"),
)


@pytest.mark.parametrize("mask", [2, 3, 4])
def test_an_output_has_a_mask_of_what_goes_in_or_one_that_joins_such(mask: int) -> None:
    network = msgspec.structs.replace(PADDED, output_masks=(mask,))

    network.check(TensorTable(()))

    assert parse_network(pack_network(network)) == network


@pytest.mark.parametrize("mask", [0, 5, 6, 7, 99], ids=["an input", "a maximum", "itself", "of a sum", "not there"])
def test_what_is_no_mask_masks_no_output(mask: int) -> None:
    """It could be anything but 0 and 1."""
    with pytest.raises(TaskError, match=r"^network 'padded': an output's mask is none, or not of the output's places$"):
        msgspec.structs.replace(PADDED, output_masks=(mask,)).shapes()


def test_a_mask_of_other_places_masks_no_output() -> None:
    ids = IdMask(name="ids")
    words = Network(
        name="words",
        inputs=((4,), (6, 5)),
        layers=(ids, embedding(), Add(name="sum")),
        calls=(Call(0, (0,)), Call(1, (0,)), Call(2, (1, 1))),
        outputs=(4,),
        input_names=("words", "numbers"),
        output_masks=(2,),
    )
    with pytest.raises(TaskError, match="not of the output's places"):
        words.shapes()


@pytest.mark.parametrize("masks", [(2, 2), (2, None)])
def test_each_output_has_a_mask_or_none_if_any_has_one(masks: tuple[int | None, ...]) -> None:
    with pytest.raises(TaskError, match="each output needs a mask or none"):
        msgspec.structs.replace(PADDED, output_masks=masks).shapes()
