"""Trains a round's epoch, in the batches that fedprune's agent of the same number takes."""

from functools import cache
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from model import load, trainer

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    data, node = str(context.run_config["data"]), int(context.node_config["partition-id"])
    x, y = _examples(data, node)
    batches, rates = _course(data)
    number = int(message.content["config"]["server-round"]) - 1
    own = trainer()
    own.train(message.content["arrays"].to_numpy_ndarrays(), x, y, batches[number, node], float(rates[number]))
    records = {"arrays": ArrayRecord(own.model.get_weights()), "metrics": MetricRecord({"num-examples": len(x)})}
    return Message(content=RecordDict(records), reply_to=message)


@cache
def _examples(data: str, node: int) -> tuple[np.ndarray, np.ndarray]:
    return load(Path(data) / f"agent-{node}.npz")


@cache
def _course(data: str) -> tuple[np.ndarray, np.ndarray]:
    """The batches of each round and node, and the learning rate of each round."""
    with np.load(Path(data) / "course.npz") as arrays:
        return arrays["batches"], arrays["rates"]
