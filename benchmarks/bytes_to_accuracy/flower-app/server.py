"""Federated averaging over all nodes, from drawn weights of CNN-108k's shapes."""

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

_SHAPES = ((3, 3, 1, 16), (16,), (3, 3, 16, 32), (32,), (800, 128), (128,), (128, 10), (10,))

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    nodes, rounds = int(context.run_config["nodes"]), int(context.run_config["rounds"])
    chance = np.random.default_rng(1)
    arrays = ArrayRecord([chance.standard_normal(shape, np.float32) for shape in _SHAPES])
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=nodes, min_evaluate_nodes=0, min_available_nodes=nodes)
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=rounds)
