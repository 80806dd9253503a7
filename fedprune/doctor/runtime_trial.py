"""The trial of a runtime: a matrix product whose result is known. Run as ``python -m fedprune.doctor.runtime_trial``.

Standard output gets one `Tried` as JSON.
"""

from __future__ import annotations

import os

import msgspec
import numpy as np

from fedprune.doctor.runtime import Tried
from fedprune.errors import FedpruneError
from fedprune.graph.inference import write_inference_graph
from fedprune.network.description import Call, Network
from fedprune.network.layers import Dense
from fedprune.runtime.tflite import default_runtime, predict

_TOLERANCE = 1e-3
"""Of products of small whole numbers: rounding is far below, a kernel that is wrong far above."""

_SIZE = 16


def main() -> None:
    replies = os.dup(1)
    os.dup2(2, 1)  # what the runtime prints is no reply
    with os.fdopen(replies, "wb") as out:
        out.write(msgspec.json.encode(_try()))


def _try() -> Tried:
    numbers = np.arange(_SIZE * _SIZE, dtype=np.float32).reshape(_SIZE, _SIZE) % 7
    product = Dense(name="product", units=_SIZE, kernel="kernel")
    network = Network("trial", ((_SIZE,),), (product,), (Call(0, (0,)),), (1,))
    try:
        runtime = default_runtime()
        interpreter = runtime.interpreter(write_inference_graph(network, {"kernel": numbers}, _SIZE), advise=False)
        answer = predict(interpreter, numbers)
    except FedpruneError as error:
        return Tried(problem=str(error))
    name = f"{runtime.name} {runtime.version}"
    if not np.allclose(answer, numbers @ numbers, rtol=_TOLERANCE, atol=0.0):
        return Tried(problem=f"{name} multiplies matrices wrongly on this processor; take another version of it")
    return Tried(runtime=name)


if __name__ == "__main__":
    main()
