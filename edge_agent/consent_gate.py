"""The gate before any training: a task's bundle is read, and goes no further unless the device's owner consents."""

from __future__ import annotations

import hashlib

from edge_agent.consent import Consent, ConsentMissing, TaskFacts, consent_to
from edge_agent.consent_files import ConsentFiles
from fedprune.system.disk import Disk
from fedprune.wire.messages import Terms


class ConsentGate:
    """Judges a task before each round, by the approvals as they are then. `examples`: how many there can be here.

    The training's thread alone calls it. What it knows of the last task it keeps: reading one takes a moment.
    """

    def __init__(self, consent: Consent, disk: Disk, examples: int) -> None:
        self._consent = consent
        self._files = ConsentFiles(disk)
        self._examples = examples
        self._last: tuple[Terms, TaskFacts] | None = None

    def check(self, blob: bytes, terms: Terms) -> None:
        """Let a task pass, or raise `ConsentMissing`; then what only waits for a word is in the list of what asks.

        Raises `TaskError` for a bundle that cannot be used, `StorageError` if the disk refuses.
        """
        if not self._consent.judges_tasks:
            return
        if self._last is None or self._last[0] != terms:
            self._last = (terms, facts_of(blob, self._examples, terms.hold_out))
        facts = self._last[1]
        verdict = consent_to(facts, self._consent, self._files.approved())
        if verdict.asks:
            self._files.ask(facts)
        if verdict.why_not:
            raise ConsentMissing(verdict.why_not)


def facts_of(blob: bytes, examples: int, hold_out: float) -> TaskFacts:
    """The facts of a bundle for the device's owner, where there are so many `examples`. Raises `TaskError`."""
    from fedprune.runtime.tflite import one_line
    from fedprune.task.bundle import read_bundle

    bundle = read_bundle(blob)
    task, training = bundle.task, bundle.task.training
    kinds = sorted({str(layer.__struct_config__.tag) for layer in bundle.network.layers})
    return TaskFacts(
        digest=hashlib.sha256(blob).hexdigest(),
        name=one_line(task.name),
        layers=one_line(", ".join(kinds)),
        parameters=task.table.parameters,
        steps=training.local_steps(examples, training.batch_size),
        batch_size=training.batch_size,
        data=str(task.data.__struct_config__.tag),
        inputs=one_line(", ".join("x".join(map(str, shape)) or "scalar" for shape in task.input_shapes)),
        hold_out=hold_out,
    )
