"""What the zoo tells of each network, as it is written to JSON."""

from __future__ import annotations

import msgspec


class Exactness(msgspec.Struct, frozen=True):
    """The error of the training graph's gradients over that of tf_keras' float32, both to float64: `median` and `p95`
    over the tensors whose answer is `meaningful`, so many of `tensors`, at all batch sizes.

    `largest_ratio` is the largest error of a graph over rounding noise, as `export.proof` has it, in the best of three
    batches of a size.
    """

    median: float
    p95: float
    meaningful: int
    tensors: int
    largest_ratio: float


class Speed(msgspec.Struct, frozen=True):
    """A trainer in a process of its own: the median of samples/s, and the process's peak memory in MB (10^6 bytes)."""

    samples_s: float
    peak_mb: float


class Export(msgspec.Struct, frozen=True):
    """A format: whether it was made and runs; `problem` is why it does not, or what it does not gain."""

    format: str
    works: bool
    problem: str


class Measured(msgspec.Struct, frozen=True):
    """A network. `graph` lists the batch sizes that have a proven graph, `write_seconds` is for `batch`.

    `parity` is how far the weights of the two trainers are apart after 20 steps, over how far one rounding of the first
    weights takes the keras trainer; `latency_ms` is the median of the fp32 export. None is not measured.
    """

    name: str
    batch: int
    parameters: int
    graph: tuple[int, ...]
    refusals: tuple[str, ...]
    build_seconds: float
    write_seconds: float
    exactness: Exactness | None
    litert_samples_s: float | None
    keras_samples_s: float | None
    litert_peak_mb: float | None
    keras_peak_mb: float | None
    exports: tuple[Export, ...]
    latency_ms: float | None
    parity: float | None


class Criterion(msgspec.Struct, frozen=True):
    """How the criterion of proofs separates honest graphs from mutants.

    `false_refusals` counts the honest graphs of the zoo (a batch size each) that were refused, `missed_mutants` those
    that the proof lets pass, `missed_by_self_check` those that a device's self-check does. `smallest_mutant` is the
    smallest ratio to rounding noise by which a mutant is found, `largest_honest` the largest of an honest graph.
    """

    honest: int
    false_refusals: int
    mutants: int
    kinds: int
    missed_mutants: int
    missed: tuple[str, ...]
    missed_by_self_check: int
    margin: float
    largest_honest: float
    smallest_mutant: float


class Zoo(msgspec.Struct, frozen=True):
    """The whole result."""

    machine: str
    networks: tuple[Measured, ...]
    criterion: Criterion | None
