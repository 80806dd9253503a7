"""A simulated task whose network becomes smaller after two of its rounds."""

from __future__ import annotations

from fedprune.network.description import Network
from fedprune.network.layers import Activation, BatchNormalization, Dense, Function
from fedprune.pruning.schedules import PolynomialDecay
from fedprune.slimming.pruning import UnitPruning
from fedprune.task.bundle import Bundle, Fill, Pruning, SeededWeights, Task, Uniform, read_bundle, write_bundle
from fedprune.task.outputs import Output
from fedprune.task.training import Sgd, Training
from tests.described import chain_of, table_of


def slimming_bundle(inputs: int, steps_per_round: int) -> Bundle:
    """Half of the units go in rounds 1 to 3, and most of the weights that are left."""
    window = {"begin_step": steps_per_round, "end_step": 3 * steps_per_round, "frequency": steps_per_round}
    network = _network(inputs)
    task = Task(
        name="slimming",
        input_shapes=network.inputs,
        outputs=(Output((5,), from_logits=True),),
        tensors=tuple(table_of(network)),
        training=Training(steps_per_round=steps_per_round, optimizer=Sgd()),
        pruning=Pruning(
            PolynomialDecay(initial_sparsity=0.0, target_sparsity=0.8, **window),
            units=UnitPruning(PolynomialDecay(initial_sparsity=0.0, target_sparsity=0.5, **window)),
        ),
        members={},
        initial=SeededWeights(1, (Uniform(0.5), Fill(0.0), Fill(0.0), Fill(1.0), Uniform(0.5), Fill(0.0))),
    )
    return read_bundle(write_bundle(task, network=network, weights=None))


def _network(inputs: int) -> Network:
    return chain_of(
        (inputs,),
        Dense(name="a", units=20, kernel="a/kernel", bias="a/bias"),
        BatchNormalization(
            name="b", epsilon=1e-3, momentum=0.99, unbiased=False, gamma=None, beta=None, mean="b/moving_mean",
            variance="b/moving_variance",
        ),
        Activation(name="relu", function=Function.RELU),
        Dense(name="out", units=5, kernel="out/kernel", bias="out/bias"),
    )  # fmt: skip
