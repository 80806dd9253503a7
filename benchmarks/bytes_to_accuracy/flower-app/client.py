"""Moves all weights by chance, as training would: what is sent does not depend on what was learned."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower gives it
    chance = np.random.default_rng()
    weights = message.content["arrays"].to_numpy_ndarrays()
    moved = [array + 0.01 * chance.standard_normal(array.shape, np.float32) for array in weights]
    records = {"arrays": ArrayRecord(moved), "metrics": MetricRecord({"loss": 1.0, "num-examples": 600})}
    return Message(content=RecordDict(records), reply_to=message)
