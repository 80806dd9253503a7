"""Top-k within a budget of bytes, and the presets that are made of it."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.presets import Preset, chains
from aggregator.server_optimizers import FedAvgM
from aggregator.settings import Aggregation, Codec, FederationSettings
from fedprune.codecs import alive_sizes, delta_key, encode_delta, parse_codec, parse_model_codec
from fedprune.codecs.budget import LARGEST_SHARE, Budget, budget_of
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import TensorClass, TensorSpec, TensorTable

TABLE = TensorTable(
    (
        TensorSpec("kernel", (400, 250), "float32", TensorClass.PRUNABLE, "dense"),
        TensorSpec("bias", (250,), "float32", TensorClass.DENSE, "dense"),
    )
)


def bits(count: int, alive: int) -> float:
    share = count / alive
    return alive * -(share * math.log2(share) + (1 - share) * math.log2(1 - share)) + count


@given(st.integers(1, 10**6), st.integers(2, 10**7))
def test_it_sends_as_many_values_as_the_budget_holds(budget: int, alive: int) -> None:
    most = Budget(budget).most(alive)

    assert 1 <= most <= max(1, LARGEST_SHARE * alive)
    slack = 8 + alive * 2.0**-14
    assert most == 1 or bits(most, alive) <= 8 * budget + slack
    if most + 1 <= LARGEST_SHARE * alive:
        assert bits(most + 1, alive) > 8 * budget - slack


def test_the_fewer_values_are_alive_the_larger_the_share_that_is_sent() -> None:
    link = Budget(700)
    shares = [link.most(alive) / alive for alive in (100_000, 50_000, 10_000, 2_000)]

    assert shares == sorted(shares)
    assert [link.most(alive) for alive in (2, 1, 0)] == [1, 1, 0]
    assert link.most(2_000) == LARGEST_SHARE * 2_000


@given(st.integers(100, 10**7), st.floats(0.0005, 0.3))
def test_the_budget_of_a_share_holds_that_share(alive: int, share: float) -> None:
    wanted = max(1, round(share * alive))

    assert wanted <= Budget(budget_of(alive, share)).most(alive) <= wanted + 8 + 0.01 * wanted


def test_frugal_deltas_stay_as_small_while_the_model_is_pruned() -> None:
    codec = parse_model_codec(f"fp16 + {chains(TABLE.parameters)[1]}").deltas
    assert codec is not None
    wanted = {spec.name: Keyed(1, spec.name).uniform(spec.size, -1.0, 1.0).reshape(spec.shape) for spec in TABLE}
    base = {name: np.zeros_like(array) for name, array in wanted.items()}
    sizes = []
    for kept_share in (1.0, 0.5, 0.1):
        mask = {"kernel": Keyed(2, "mask").uniform(100_000, 0.0, 1.0).reshape(400, 250) < kept_share}
        assert sum(alive_sizes(TABLE, mask).values()) == pytest.approx(kept_share * 100_000, rel=0.05)
        sizes.append(len(encode_delta(wanted, base, mask, TABLE, codec, delta_key(1, 1))))

    assert max(sizes) < 1.1 * min(sizes)
    assert max(sizes) < 100_000 / 80


@pytest.mark.parametrize("preset", Preset)
def test_a_preset_stands_for_both_chains(preset: Preset) -> None:
    settings = Codec(preset=preset)

    update, model = settings.chains(TABLE)

    assert settings.sends_deltas
    assert parse_codec(update).feedback is not None
    assert str(parse_model_codec(model).deltas) == chains(TABLE.parameters)[1]
    assert Codec().chains(TABLE) == ("mask | feedback(2) | int8", "fp16")


def test_each_part_of_a_preset_can_be_switched_off() -> None:
    frugal = Codec(preset=Preset.FRUGAL)
    other_update = Codec(preset=Preset.FRUGAL, update="mask | fp16")
    whole_models = Codec(preset=Preset.FRUGAL, model="whole")
    mean_as_it_is = Aggregation(optimizer=FedAvgM(learning_rate=1.0, momentum=0.0))

    assert other_update.chains(TABLE) == ("mask | fp16", frugal.chains(TABLE)[1])
    assert whole_models.chains(TABLE) == (frugal.chains(TABLE)[0], "fp16")
    assert not whole_models.sends_deltas
    assert settings(codec=frugal, aggregation=mean_as_it_is).merging == mean_as_it_is


def test_frugal_takes_twice_the_mean_and_exact_the_mean() -> None:
    assert settings(codec=Codec(preset=Preset.FRUGAL)).merging.optimizer == FedAvgM(learning_rate=2.0, momentum=0.0)
    assert settings(codec=Codec(preset=Preset.EXACT)).merging == Aggregation()
    assert settings(codec=Codec()).merging == Aggregation()


def settings(**given: Any) -> FederationSettings:
    return FederationSettings(task="task", state="state", held_out="held-out", **given)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"preset": Preset.FRUGAL, "update": "mask | nothing"}, "'nothing' is unknown"),
        ({"model": "mask | feedback(2) | int8"}, "leave clip and feedback out"),
        ({"model": "mask | nothing"}, "'nothing' is unknown"),
    ],
)
def test_settings_that_make_no_sense_are_refused(keys: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        Codec(**keys)  # type: ignore[arg-type]
