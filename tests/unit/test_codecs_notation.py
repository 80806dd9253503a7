"""Descriptions of codecs: one spelling each, and what makes no sense is refused with its reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.codecs import DEFAULT_CODEC, parse_codec


@pytest.mark.parametrize(
    ("written", "spelt"),
    [
        (DEFAULT_CODEC, DEFAULT_CODEC),
        ("mask|int8", "mask | int8"),
        (" mask |feedback( 2.0 )| topk(0.010)|ternary | rice ", "mask | feedback(2) | topk(0.01) | ternary | rice"),
        ("mask | clip(1e3) | threshold(1e-7) | fp16 | bitmap", "mask | clip(1000) | threshold(1e-07) | fp16 | bitmap"),
        ("mask | subsample(1) | rotate | quantise(4)", "mask | subsample(1) | rotate | quantise(4)"),
        ("mask | random_mask(0.1) | fp32", "mask | random_mask(0.1) | fp32"),
        ("mask | feedback(10000000000000000) | int8", "mask | feedback(1e+16) | int8"),
        ("mask | clip(1e300) | int8", "mask | clip(1e+300) | int8"),
        ("mask | low_rank(08) | quantise(2)", "mask | low_rank(8) | quantise(2)"),
    ],
)
def test_a_codec_has_one_spelling_and_that_is_read_back(written: str, spelt: str) -> None:
    codec = parse_codec(written)

    assert str(codec) == spelt
    assert str(parse_codec(spelt)) == spelt
    assert parse_codec(spelt).check([]) == codec.check([])


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_whatever_number_a_codec_is_told_its_spelling_is_read_back(number: float) -> None:
    codec = parse_codec(f"mask | clip({number}) | int8")

    assert str(parse_codec(str(codec))) == str(codec)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "'' is unknown; known are mask"),
        ("mask | int5", "'int5' is unknown"),
        ("mask || int8", "'' is unknown"),
        ("mask | topk(0.1", r"'topk\(0.1' is unknown"),
        ("mask | " + "int8 " * 50, "at most 200 are allowed"),
        ("mask | topk | fp32 | rice", "topk needs a number in brackets after it, not nothing"),
        ("mask | topk(many) | fp32 | rice", "topk needs a number in brackets after it, not many"),
        ("mask | topk(nan) | fp32 | rice", "needs a number"),
        ("mask | topk(-1) | fp32 | rice", "needs a number"),
        ("mask | quantise(4.0)", "quantise needs a whole number in brackets after it, not 4.0"),
        ("mask | int8(3)", "int8 takes no number"),
        ("mask | topk(0) | fp32 | rice", r"topk\(0\): the fraction must be above 0"),
        ("mask | topk(1.5) | fp32 | rice", r"topk\(1.5\): the fraction"),
        ("mask | random_mask(0) | fp32", "the fraction"),
        ("mask | subsample(2) | fp32", "the fraction"),
        ("mask | threshold(0) | fp32 | rice", "the least magnitude must be above 0"),
        ("mask | threshold(1e-46) | ternary | rice", "the least magnitude must be above 0"),
        ("mask | threshold(1e39) | fp32 | rice", "the least magnitude must be above 0 and finite in float32"),
        ("mask | threshold(0.1) | ternary | context", "context takes a step of Python for each value that is sent"),
        (
            "mask | feedback(2) | threshold(0.1) | ternary | history",
            "history takes a step of Python for each value that",
        ),
        ("mask | topk(0.1) | ternary | history", "it needs feedback"),
        ("mask | feedback(2) | topk(0.1) | int8 | history", "it needs ternary"),
        ("mask | clip(0) | fp32", "the largest norm must be above 0"),
        ("mask | clip(1e999) | fp32", "the largest norm must be above 0 and finite"),
        ("mask | feedback(0) | fp32", "the cap must be above 0"),
        ("mask | quantise(3)", "the bits must be 8, 4 or 2"),
        ("mask | low_rank(0) | fp32", "the rank must be 1 or more"),
        ("int8", "it must begin with mask"),
        ("mask | ternary | topk(0.1) | rice", "topk must stand before ternary"),
        ("mask | feedback(2) | clip(1) | int8", "clip must stand before feedback"),
        (
            "mask | topk(0.1) | random_mask(0.1) | int8",
            "topk and random_mask both choose which values are sent; take one",
        ),
        ("mask | int8 | fp16", "int8 and fp16 both say how values are coded; take one"),
        ("mask", "nothing says how values are coded; add one of fp32, fp16, int8, quantise, ternary"),
        ("mask | topk(0.1) | rice", "nothing says how values are coded"),
        ("mask | topk(0.1) | int8", "topk chooses positions, which must be coded; add one of bitmap, rice, context"),
        ("mask | int8 | rice", "rice codes positions that topk, budget or threshold chose; there are none here"),
        ("mask | random_mask(0.1) | int8 | rice", "rice codes positions"),
        ("mask | ternary", "ternary sends one magnitude for all"),
        ("mask | random_mask(0.1) | ternary", "ternary sends one magnitude for all"),
        ("mask | topk(0.1) | rotate | ternary | rice", "ternary sends one magnitude for all"),
        ("mask | budget(0) | fp32 | rice", r"budget\(0\): it must be 1 byte at least"),
        ("mask | budget(1.5) | fp32 | rice", "budget needs a whole number"),
        ("mask | budget(9) | fp32", "budget chooses positions, which must be coded"),
        ("mask | topk(0.1) | low_rank(2) | fp32 | rice", "low_rank makes a matrix of a tensor's values"),
        ("mask | feedback(2) | subsample(0.1) | fp32", "subsample sends more than was wanted"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_reason(written: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"^codec: .*{said}"):
        parse_codec(written)


def test_other_codecs_have_other_checks() -> None:
    descriptions = ["mask | int8", "mask | fp16", "mask | topk(0.1) | fp16 | rice", "mask | topk(0.2) | fp16 | rice"]

    assert len({parse_codec(description).check([]) for description in descriptions}) == 4
