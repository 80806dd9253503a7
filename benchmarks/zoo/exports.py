"""The exports of one network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.zoo.records import Export
from benchmarks.zoo.training import examples
from export.exporting import export_model
from export.report import Exported, Format
from fedprune.errors import FedpruneError
from fedprune.pruning.masks import full_mask
from fedprune.task.bundle import read_bundle
from fedprune.task.checkpoints import Checkpoint

_EXAMPLES = 64


def export(blob: bytes, forms: Sequence[Format], out: Path) -> tuple[Export, ...]:
    """Write the network, with its initial weights, into `out`; which formats work, and why the others do not.

    Conversions run in a process of their own: where one crashes, its format is told.
    """
    bundle = read_bundle(blob)
    weights = bundle.initial_weights()
    checkpoint = Checkpoint("zoo", 0, weights, weights, full_mask(bundle.task.table))
    held_out = examples(bundle, _EXAMPLES)
    try:
        report = export_model(bundle, checkpoint, held_out, out, forms, lambda _: None)
    except FedpruneError as error:
        if len(forms) > 1:  # an fp32 file that is wrong keeps the others from being written
            return tuple(exported for form in forms for exported in export(blob, (form,), out))
        return (Export(forms[0], False, str(error)),)
    found = {row.format: _described(row) for row in report.exports}
    found |= {failure.format: Export(failure.format, False, failure.error) for failure in report.failures}
    return tuple(found[form] for form in forms)


def _described(row: Exported) -> Export:
    failures = [f"{tried.runtime}: {tried.error}" for tried in row.runs_on if not tried.ok]
    notes = {"it is no smaller than fp32": row.no_smaller, "it rounds whole numbers to others": row.merges_integers}
    return Export(row.format, not failures, "; ".join(failures or (note for note, holds in notes.items() if holds)))
