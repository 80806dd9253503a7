"""Federated averaging over all nodes, from the weights in course.npz; writes each round's accuracy and bytes."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from model import load, trainer

app = ServerApp()


class CountingFedAvg(FedAvg):
    """Flower's own, which counts what it hands out and gets: of each round the bytes of arrays, and of all else in the
    messages."""

    def __init__(self, nodes: int) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=nodes, min_evaluate_nodes=0, min_available_nodes=nodes)
        self.down: list[tuple[int, int]] = []
        self.up: list[tuple[int, int]] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self.down.append(_bytes_of(messages))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        failed = [reply.error.reason for reply in replies if reply.has_error()]
        if failed or len(replies) != self.min_train_nodes:
            raise RuntimeError(f"round {server_round}: {len(replies)} replies; {'; '.join(failed)}")
        self.up.append(_bytes_of(replies))
        return super().aggregate_train(server_round, replies)


def _bytes_of(messages: list[Message]) -> tuple[int, int]:
    arrays = sum(message.content["arrays"].count_bytes() for message in messages)
    return arrays, sum(record.count_bytes() for message in messages for record in message.content.values()) - arrays


@app.main()
def main(grid: Grid, context: Context) -> None:
    nodes, rounds = int(context.run_config["nodes"]), int(context.run_config["rounds"])
    data = Path(str(context.run_config["data"]))
    x, y = load(data / "held-out.npz")
    with np.load(data / "course.npz") as arrays:
        initial = [arrays[f"weights-{index}"] for index in range(sum(name.startswith("weights") for name in arrays))]

    def evaluate(_: int, weights: ArrayRecord) -> MetricRecord:
        return MetricRecord({"accuracy": trainer().accuracy(weights.to_numpy_ndarrays(), x, y)})

    strategy = CountingFedAvg(nodes)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(initial), num_rounds=rounds, evaluate_fn=evaluate)
    scores = result.evaluate_metrics_serverapp
    accuracies = [scores[number]["accuracy"] for number in range(1, rounds + 1)]
    said = {"accuracies": accuracies, "up": strategy.up, "down": strategy.down}
    Path(str(context.run_config["result"])).write_text(json.dumps(said))
