"""Unequal local work: what steps cost an update, what is believed of them, and FedNova's mean of what they made."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.book import AcceptedUpdate
from aggregator.local_work import (
    accumulated_work,
    check_local_steps,
    check_normalizable,
    counted_steps,
    fednova_scales,
    norms_of_usual_work,
)
from aggregator.merging import Aggregate
from aggregator.outliers import Norms, outliers
from edge_agent.trainers.optimizers import make_optimizer
from fedprune.codecs import Update
from fedprune.errors import ConfigurationError, ProtocolError
from fedprune.model.tensors import TensorClass, TensorSpec, TensorTable
from fedprune.pruning.policy import MaskPolicy
from fedprune.task.bundle import Bundle, read_bundle, write_bundle
from fedprune.task.training import MOST_LOCAL_STEPS, Adam, Sgd, Training
from fedprune.wire.messages import Submit
from tests import samples
from tests.gateways import Site, begin, submit_update
from tests.simulation.stand_ins import STEPS_PER_ROUND, make_bundle

EPOCHS = Training(epochs_per_round=2, batch_size=10, optimizer=Sgd(0.1, 0.9))


def bundle_with(training: Training, policy: MaskPolicy = MaskPolicy.SHARED) -> Bundle:
    bundle = make_bundle(policy)
    task = msgspec.structs.replace(bundle.task, training=training)
    return read_bundle(write_bundle(task, network=bundle.network, weights=None))


def accepted(weight: int, local_steps: int, *, counted: int | None = None, norm: float = 1.0) -> AcceptedUpdate:
    steps = local_steps if counted is None else counted
    return AcceptedUpdate(b"", 1, weight, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, norm, 0.0, local_steps, steps)


def submit(examples: int, local_steps: int) -> Submit:
    return msgspec.structs.replace(samples.submit(examples=examples), local_steps=local_steps)


# Steps of epochs


def test_epochs_are_as_many_steps_as_a_device_has_batches() -> None:
    assert [EPOCHS.local_steps(examples, 10) for examples in (1, 10, 11, 100)] == [1, 2, 3, 20]
    assert Training(7).local_steps(1000, 10) == 7
    assert EPOCHS.local_steps(10**9, 10) == MOST_LOCAL_STEPS


@pytest.mark.parametrize("changes", [{}, {"steps_per_round": 5, "epochs_per_round": 1}, {"steps_per_round": -1}])
def test_either_steps_or_epochs_are_given(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="give either steps_per_round or epochs_per_round"):
        Training(**changes)


def test_a_device_that_claims_other_steps_than_its_examples_make_is_refused() -> None:
    bundle = bundle_with(EPOCHS)
    check_local_steps(submit(95, 19), bundle)

    for steps in (18, 20, 2**31 - 1):
        with pytest.raises(ProtocolError, match=f"of {steps} local steps; 95 examples make 19"):
            check_local_steps(submit(95, steps), bundle)


def test_a_gateway_refuses_an_update_of_more_steps_than_a_round_has(tmp_path: Path) -> None:
    site = Site(tmp_path / "run")
    runner = begin(site)

    submit_update(site, runner, "pi-0", local_steps=STEPS_PER_ROUND + 1)
    submit_update(site, runner, "pi-1")

    assert [*site.book.accepted(0)] == ["pi-1"]
    assert site.book.accepted(0)["pi-1"].local_steps == STEPS_PER_ROUND


def test_steps_count_as_far_as_the_examples_that_took_them() -> None:
    assert counted_steps(submit(1000, 200), 50, EPOCHS) == 10
    assert counted_steps(submit(1000, 200), 1000, EPOCHS) == 200
    assert counted_steps(submit(1000, 7), 50, Training(7)) == 7


def test_a_device_with_a_hundred_times_the_steps_may_move_further_and_one_with_as_many_may_not() -> None:
    round_ = {f"pi-{index}": accepted(20, 1) for index in range(4)}

    assert not outliers(norms_of_usual_work(round_ | {"big": accepted(2000, 100, norm=30.0)}), Norms(0.0, 0.0))
    assert outliers(norms_of_usual_work(round_ | {"huge": accepted(20, 1, norm=30.0)}), Norms(0.0, 0.0))
    claimed = accepted(20, 100, counted=1, norm=30.0)
    assert outliers(norms_of_usual_work(round_ | {"claims": claimed}), Norms(0.0, 0.0))


# FedNova's normalisation


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_work_of_momentum_is_that_of_the_paper(momentum: float) -> None:
    """Section 4.1: |a| = (tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho)."""
    found = accumulated_work(Sgd(0.1, momentum), 0.0, 50)

    steps = np.arange(51)
    expected = (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_the_work_of_proximal_steps_is_that_of_the_paper() -> None:
    """Section 4.1: |a| = (1 - (1 - alpha)^tau) / alpha, with alpha = eta mu."""
    found = accumulated_work(Sgd(0.1, 0.0), 2.0, 30)

    np.testing.assert_allclose(found, (1 - 0.8 ** np.arange(31)) / 0.2, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("mu", [0.0, 1.0])
def test_the_work_is_what_the_devices_optimizer_makes_of_equal_gradients(nesterov: bool, mu: float) -> None:
    settings = Sgd(0.125, 0.75, nesterov)
    weights = {"w": np.zeros(1, np.float32)}
    optimizer = make_optimizer(settings, {"w": (1,)}, settings.learning_rate)
    for _ in range(12):
        optimizer.step(weights, {"w": np.float32([1.0]) + np.float32(mu) * weights["w"]})

    found = accumulated_work(settings, mu, 12)[12]

    assert found * settings.learning_rate == pytest.approx(-float(weights["w"][0]), rel=1e-4)


def test_equal_work_is_fedavg() -> None:
    scales = fednova_scales({"a": accepted(10, 20), "b": accepted(600, 20)}, EPOCHS, EPOCHS.optimizer.learning_rate)

    assert scales == pytest.approx({"a": 1.0, "b": 1.0}, rel=1e-12)


TABLE = TensorTable((TensorSpec("w", (1,), "float32", TensorClass.DENSE, "dense"),))


def _federate(*, is_normalized: bool) -> float:
    """200 rounds of two agents on the losses (w - 1)^2 / 2 and (w + 1)^2 / 2 of as many examples each; the first makes
    30 steps, the second 3."""
    training = Training(epochs_per_round=1, optimizer=Sgd(0.02, 0.5))
    steps, targets = {"many": 30, "few": 3}, {"many": 1.0, "few": -1.0}
    updates = {agent: accepted(10, steps[agent]) for agent in steps}
    normalized = fednova_scales(updates, training, training.optimizer.learning_rate)
    scales = normalized if is_normalized else dict.fromkeys(steps, 1.0)
    model = {"w": np.zeros(1, np.float32)}
    for _ in range(200):
        aggregate = Aggregate(TABLE, model, {})
        for agent in steps:
            weights = {"w": model["w"].copy()}
            optimizer = make_optimizer(training.optimizer, {"w": (1,)}, training.optimizer.learning_rate)
            for _ in range(steps[agent]):
                optimizer.step(weights, {"w": weights["w"] - np.float32(targets[agent])})
            aggregate.add(Update({"w": weights["w"] - model["w"]}, {}, {}), 10, scales[agent])
        model = aggregate.result(model).weights
    return float(model["w"][0])


def test_unequal_steps_draw_fedavg_to_who_makes_most_and_fednova_much_less() -> None:
    """The optimum of both is 0 (Wang et al. 2020, figure 2); what FedNova leaves is the drift within rounds."""
    plain, normalized = _federate(is_normalized=False), _federate(is_normalized=True)

    assert plain > 0.6
    assert abs(normalized) < plain / 2


def test_the_order_of_updates_changes_no_bit_of_fednovas_mean() -> None:
    updates = {"a": accepted(7, 3), "b": accepted(600, 91), "c": accepted(1999, 311), "d": accepted(13, 2)}
    deltas = {agent: Update({"w": np.float32([0.1 + index])}, {}, {}) for index, agent in enumerate(updates)}
    model = {"w": np.float32([0.3])}

    def merged(order: tuple[str, ...]) -> bytes:
        scales = fednova_scales({agent: updates[agent] for agent in order}, EPOCHS, EPOCHS.optimizer.learning_rate)
        aggregate = Aggregate(TABLE, model, {})
        for agent in order:
            aggregate.add(deltas[agent], updates[agent].weight, scales[agent])
        return aggregate.result(model).weights["w"].tobytes()

    assert len({merged(order) for order in itertools.permutations(updates)}) == 1


def test_who_claims_many_steps_makes_nobodys_update_larger() -> None:
    honest = {f"pi-{index}": accepted(20, 4) for index in range(9)}
    liar = accepted(200, MOST_LOCAL_STEPS, counted=40)

    scales = fednova_scales(honest | {"liar": liar}, EPOCHS, EPOCHS.optimizer.learning_rate)

    assert scales["liar"] < 1e-2
    assert max(scales.values()) < accumulated_work(Sgd(0.1, 0.9), 0.0, 40)[40] / accumulated_work(Sgd(), 0.0, 4)[4]


@pytest.mark.parametrize(
    ("training", "policy", "why"),
    [
        (Training(5, optimizer=Adam()), MaskPolicy.SHARED, "optimizer sgd"),
        (Training(5, optimizer_state="keep"), MaskPolicy.SHARED, 'optimizer_state = "reset"'),
        (Training(5), MaskPolicy.OWN, 'mask = "shared"'),
        (Training(500, optimizer=Sgd(0.1, 0.0), proximal_mu=100.0), MaskPolicy.SHARED, "proximal_mu"),
    ],
)
def test_a_task_that_fednova_cannot_normalise_is_refused(training: Training, policy: MaskPolicy, why: str) -> None:
    check_normalizable(bundle_with(EPOCHS).task)

    with pytest.raises(ConfigurationError, match=rf'aggregation\.rule = "fednova": .*{why}.*"fedavg"'):
        check_normalizable(bundle_with(training, policy).task)
