"""The process of a worker, run as ``python -m aggregator.worker_child DESCRIPTOR``: see `aggregator.workers`.

DESCRIPTOR is the open end of a pipe. A `Job` comes first, then requests, each of which is answered. The process ends
with the pipe, and with its parent.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from multiprocessing.connection import Connection

from aggregator.folding import Folding
from aggregator.partial_sum import encode_partial_sum
from aggregator.workers import Check, Job, Part, Sum, Verdict, Verdicts
from fedprune.codecs import OtherHistory, parse_codec
from fedprune.errors import FedpruneError, ProtocolError
from fedprune.model.tensors import weights_digest
from fedprune.system.disk import Directory
from fedprune.system.process import end_with_parent
from fedprune.task.checkpoints import Checkpoint, load_sparse_checkpoint


class _Worker:
    def __init__(self, job: Job) -> None:
        self._disk = Directory(job.checkpoints)
        codec = parse_codec(job.codec)
        self._folding = Folding(job.task, job.network, job.seed, codec, job.aggregation, job.sub_gateways)
        self._model: Checkpoint | None = None

    def check(self, request: Check) -> Verdicts:
        if self._model is None or self._model.version != request.version:
            self._folding.forget()
            self._model = load_sparse_checkpoint(self._disk, request.version)
        return Verdicts(tuple(self._verdict(self._model, *update) for update in request.updates))

    def sum(self, request: Sum) -> Part:
        if self._model is None or self._model.version != request.version:
            return Part(b"", {})
        folded = self._folding.folded(self._model)
        digest = bytes.fromhex(weights_digest(self._model.weights))
        return Part(encode_partial_sum(folded.sums, digest), folded.updates)

    def _verdict(
        self, model: Checkpoint, agent: str, weight: int, blob: bytes, remembered: tuple[bytes, ...]
    ) -> Verdict:
        try:
            return self._folding.take(blob, agent, model, weight, remembered)
        except OtherHistory as error:
            return error
        except ProtocolError as error:
            return str(error)


def main(connection: Connection) -> None:
    end_with_parent()
    try:
        with suppress(EOFError, ConnectionError):
            worker = _Worker(connection.recv())
            while True:
                request: Check | Sum = connection.recv()
                connection.send(worker.check(request) if isinstance(request, Check) else worker.sum(request))
    except FedpruneError as error:
        sys.exit(f"a worker: {error}")


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
