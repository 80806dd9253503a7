"""Training graphs of networks of all kinds of layers, without some units, give what the masked whole ones give."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from edge_agent.trainers.slimmed_graph import compare_graphs
from edge_agent.trainers.slimming import SlimmedDiffers
from fedprune.errors import TaskError
from fedprune.graph.training import write_training_graph
from fedprune.model.losses import Loss, Objective
from fedprune.network.description import Network
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.runtime.self_check import Probe, SelfCheck, Sketch, draw_case, outputs_of
from fedprune.runtime.training_graph import TrainingGraph
from fedprune.slimming.pruning import UnitPruning
from fedprune.slimming.selection import UnitAllocation, choose_units
from fedprune.slimming.unit_masks import maskable
from fedprune.task.bundle import Pruning, Task
from fedprune.task.forms import Form, Forms
from fedprune.task.outputs import Output
from fedprune.task.training import Training
from tests.described import table_of
from tests.drawn_networks import drawn_networks, drawn_weights

_BATCH = 4
_NOTHING = 1e-9
"""A tolerance that leaves the comparison's own."""
_NO_WEIGHTS = ConstantSparsity(target_sparsity=0.0, begin_step=0, frequency=1)
_HALF = ConstantSparsity(target_sparsity=0.5, begin_step=0, frequency=1)


def forms_of(network: Network) -> Forms:
    shape = network.shapes()[network.outputs[0]]
    task = Task(
        name="drawn",
        input_shapes=network.inputs,
        outputs=(Output(shape, from_logits=False),),
        tensors=tuple(table_of(network)),
        training=Training(steps_per_round=1, loss=Loss.MEAN_SQUARED_ERROR),
        pruning=Pruning(_NO_WEIGHTS, units=UnitPruning(_HALF)),
        members={},
    )
    return Forms(task, network)


def halved(forms: Forms) -> Form | None:
    """A form without half of the units that the federation's mask can remove; None if there is none."""
    groups = forms.groups
    weights = drawn_weights(groups.table, 1)
    kept = choose_units(groups, weights, 0.5, UnitAllocation.UNIFORM, choosable=maskable(groups))
    return None if kept.all() else forms.of(kept)


def compare(forms: Forms, form: Form) -> None:
    """Compare the form's graph with the whole one."""
    whole, objectives = forms.whole, [Objective(Loss.MEAN_SQUARED_ERROR, from_logits=False)]
    blobs = [write_training_graph(each.network, each.task.table, objectives, _BATCH).blob for each in (whole, form)]
    load_whole, load = (
        partial(TrainingGraph, blob, each.task.tensors, threads=1)
        for blob, each in zip(blobs, (whole, form), strict=True)
    )
    tensors = whole.task.tensors
    loaded = load_whole()
    outputs = outputs_of(draw_case(loaded, tensors, 0, 1, 1.0).run(loaded), tensors)
    answers = {name: Sketch(_NOTHING, (0.0, 0.0, 0.0)) for name in outputs}
    probes = tuple(Probe(seed, examples, 1.0, answers) for seed, examples in ((1, _BATCH), (2, 1)))
    compare_graphs(load_whole, load, form, tensors, SelfCheck(probes))


def check(network: Network) -> bool:
    """False for networks of which nothing can be removed, or that no graph trains."""
    forms = forms_of(network)
    form = halved(forms)
    if form is None:
        return False
    try:
        compare(forms, form)
    except SlimmedDiffers:
        raise
    except TaskError:
        return False
    return True


@pytest.mark.parametrize("most", [15, pytest.param(200, marks=pytest.mark.slow)])
def test_a_slimmed_graph_trains_as_the_masked_one_does(most: int) -> None:
    compared = []

    @settings(
        deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None, max_examples=most
    )
    @given(drawn_networks())
    def each(network: Network) -> None:
        compared.append(check(network))

    each()
    assert np.count_nonzero(compared) >= most / 5
