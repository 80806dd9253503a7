"""What the benchmark of honest federations claims of its figures."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aggregator.outliers import FACTOR, Norms, outliers
from benchmarks.outliers import Row, _caught_from, claims

_HONEST = Row(
    scenario="demo", seed=1, updates=60, left_out=0, unkept=0, nearest=2.0, caught_from=(20.0, 60.0), named=(),
    accuracy=0.8,
)  # fmt: skip
_RESCALED = msgspec.structs.replace(_HONEST, scenario="one device on another scale", named=("agent-3",))


def _missed(honest: Row = _HONEST, rescaled: Row = _RESCALED) -> list[str]:
    return [claim for claim, holds in claims([honest, rescaled]).items() if not holds]


def test_good_figures_miss_nothing() -> None:
    assert _missed() == []


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"left_out": 1}, "no honest update is left out"),
        ({"unkept": 1}, "every merge of honest updates is kept"),
        ({"named": ("agent-0",)}, "no honest agent is named"),
        ({"caught_from": (20.0, 10_001.0)}, "an update is always left out at a factor of 10,000"),
        ({"caught_from": (101.0, 200.0)}, "and in the median round at 100"),
    ],
)
def test_what_is_missed_is_said(change: dict[str, Any], claim: str) -> None:
    assert _missed(honest=msgspec.structs.replace(_HONEST, **change)) == [claim]


@pytest.mark.parametrize("named", [(), ("agent-0", "agent-3")])
def test_the_device_on_another_scale_must_be_named_alone(named: tuple[str, ...]) -> None:
    missed = _missed(rescaled=msgspec.structs.replace(_RESCALED, named=named))

    assert missed == ["the device on another scale is named, and nobody else"]


@pytest.mark.parametrize("earlier", [0.0, 1.5])
def test_the_factor_that_is_caught_is_the_one_that_the_aggregator_catches(earlier: float) -> None:
    norms = [1.0, 0.5, 2.0, 1.25]

    for index, factor in enumerate(_caught_from(norms, Norms(earlier, 0.0))):
        for times, is_caught in ((0.99, False), (1.01, True)):
            attacked = {f"pi-{place}": Norms(norm, 0.0) for place, norm in enumerate(norms)}
            attacked[f"pi-{index}"] = Norms(norms[index] * factor * times, 0.0)
            assert (f"pi-{index}" in outliers(attacked, Norms(earlier, 0.0))) == is_caught
    assert FACTOR > 1.0
