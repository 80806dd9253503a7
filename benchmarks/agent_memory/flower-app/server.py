"""Federated averaging over one node; writes what its client app said of every round."""

import json
from pathlib import Path

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from model import build_model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    settings = context.run_config
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_evaluate_nodes=0, min_available_nodes=1)
    arrays = ArrayRecord(build_model().get_weights())
    result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=int(settings["rounds"]))
    rounds = [dict(metrics) for _, metrics in sorted(result.train_metrics_clientapp.items())]
    Path(str(settings["result"])).write_text(json.dumps(rounds))
