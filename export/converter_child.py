"""The process that converts, run as ``python -m export.converter_child DESCRIPTOR``: see `export.converter`.

DESCRIPTOR is the open end of a pipe. A `Job` comes first, then requests. Each is answered, with the error where one is
raised. The process ends with the pipe; on Linux also in the midst of a conversion when its parent ends.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, assert_never

from export.converter import Convert, Converter, Evaluate, Job, Request, Run
from fedprune.errors import FedpruneError
from fedprune.system.process import end_with_parent


def main(connection: Connection) -> None:
    end_with_parent()
    converter: Converter | None = None
    with suppress(EOFError, ConnectionError):
        while True:
            request: Request = connection.recv()
            answer: Any = None
            try:
                if isinstance(request, Job):
                    converter = _open(request)
                else:
                    assert converter is not None
                    answer = _answer(converter, request)
            except FedpruneError as error:
                answer = error
            connection.send(answer)


def _open(job: Job) -> Converter:
    from export.workbench import Workbench  # TensorFlow: the job is read by then, so that nobody waits to be rid of it

    return Workbench(job)


def _answer(converter: Converter, request: Evaluate | Convert | Run) -> Any:
    match request:
        case Evaluate():
            return converter.evaluate()
        case Convert(form):
            return converter.convert(form)
        case Run():
            return converter.run()
        case _:
            assert_never(request)


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
