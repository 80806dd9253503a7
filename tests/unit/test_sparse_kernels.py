"""The pattern that XNNPACK's sparse kernels take, and what a model is told that does not follow it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.latency.sparse_kernels import Filter, Operator, judge_operators


def _filter(size: int, channels: int, zeros: float = 0.0, *, is_sparse: bool = True) -> Filter:
    return Filter((size, size), channels, 900, int(900 * zeros), is_float=True, is_sparse=is_sparse)


_FIRST = Operator("CONV_2D", "first", (0,), (1,), 4, _filter(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
_POINTWISE = Operator("CONV_2D", "pointwise", (1,), (2,), 4, _filter(1, 16, zeros=0.8))
_DEPTHWISE = Operator("DEPTHWISE_CONV_2D", "depthwise", (2,), (3,), 4, _filter(3, 16), padding=(1, 1, 1, 1))
_SUM = Operator("ADD", "sum", (2, 3), (4,), 4)
_MEAN = Operator("MEAN", "mean", (4,), (5,), 2, is_spatial_mean=True)
_DENSE = Operator("FULLY_CONNECTED", "dense", (5,), (6,), 2)
_MODEL = (_FIRST, _POINTWISE, _DEPTHWISE, _SUM, _MEAN, _DENSE)


def _with(changed: Operator) -> list[Operator]:
    return [changed if each.name == changed.name else each for each in _MODEL]


def test_a_mobilenet_with_pruned_pointwise_convolutions_qualifies() -> None:
    found = judge_operators(_MODEL)
    assert found.qualifies
    assert found.zeros == pytest.approx(0.8)
    assert found.changes == ()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (replace(_FIRST, padding=None), "give first, the first convolution, stride 2, and for padding `same`"),
        (replace(_FIRST, filter=_filter(3, 1)), "make first (3x3) a depthwise convolution and a 1x1 one"),
        (
            replace(_POINTWISE, filter=_filter(1, 16, 0.6)),
            "prune the 1x1 convolutions to more than 2/3 zeros, they have 60%",
        ),
        (replace(_POINTWISE, filter=_filter(1, 16, 0.8, is_sparse=False)), "export it in sparse encoding"),
        (replace(_POINTWISE, stride=(2, 2)), "give the 1x1 convolution pointwise stride 1"),
        (replace(_DEPTHWISE, padding=None), "give the depthwise convolution depthwise a ZeroPadding2D of 1"),
        (replace(_DEPTHWISE, filter=_filter(7, 16)), "a kernel of 3x3 or 5x5"),
        (replace(_DEPTHWISE, dilation=(2, 2)), "do without dilation in depthwise"),
        (replace(_SUM, kind="CONCATENATION"), "do without CONCATENATION (sum)"),
        (replace(_MEAN, is_spatial_mean=False), "end the convolutions with a mean over height and width"),
        (replace(_DENSE, inputs=(3, 5)), "let nothing but the sparse part use what depthwise computes: dense does"),
    ],
)
def test_what_keeps_a_model_from_sparse_kernels_is_named(changed: Operator, told: str) -> None:
    found = judge_operators(_with(changed))
    assert not found.qualifies
    assert any(change.startswith(told) or told in change for change in found.changes)


def test_exactly_two_thirds_of_zeros_are_too_few() -> None:
    assert not judge_operators(_with(replace(_POINTWISE, filter=_filter(1, 16, 2 / 3)))).qualifies


def test_integers_have_no_sparse_kernels() -> None:
    integers = replace(_filter(1, 16, 0.9), is_float=False)
    found = judge_operators(_with(replace(_POINTWISE, filter=integers)))
    assert found.changes == ("take fp32-sparse: XNNPACK has sparse kernels for floating point only",)


def test_a_model_without_1x1_convolutions_has_nothing_to_gain() -> None:
    found = judge_operators([_FIRST, replace(_MEAN, inputs=(1,))])
    assert (found.qualifies, found.zeros) == (False, None)
    assert "use 1x1 convolutions" in found.changes[0]


def test_no_more_changes_are_told_than_are_read() -> None:
    many = [
        replace(_DEPTHWISE, name=f"d{number}", inputs=(2 + number,), outputs=(3 + number,), padding=None)
        for number in range(9)
    ]
    found = judge_operators([_FIRST, _POINTWISE, *many, replace(_MEAN, inputs=(11,))])
    assert not found.qualifies
    assert len(found.changes) <= 6
