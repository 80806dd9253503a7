"""One format of one network. Importing this module imports TensorFlow."""

from __future__ import annotations

from pathlib import Path

from benchmarks.zoo.training import examples
from export.exporting import export_model
from export.report import Format
from fedprune.errors import FedpruneError
from fedprune.pruning.masks import full_mask
from fedprune.task.bundle import read_bundle
from fedprune.task.checkpoints import Checkpoint

_EXAMPLES = 64


def export(blob: bytes, form: Format, out: Path) -> str:
    """Write the network, with its initial weights, as `form` into `out`; the reason if it cannot be done."""
    bundle = read_bundle(blob)
    weights = bundle.initial_weights()
    checkpoint = Checkpoint("zoo", 0, weights, weights, full_mask(bundle.task.table))
    try:
        report = export_model(bundle, checkpoint, examples(bundle.task, _EXAMPLES), out, [form], lambda _: None)
    except FedpruneError as error:
        return str(error)
    failures = [f"{tried.runtime}: {tried.error}" for row in report.exports for tried in row.runs_on if not tried.ok]
    return "; ".join(failures)
