"""Trains one local epoch on one thread, and says what the process took."""

import os
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from model import build_model

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    settings = context.run_config
    with np.load(context.node_config["data"]) as arrays:
        x, y = arrays["x"], arrays["y"]
    model = build_model()
    model.compile(
        optimizer=tf.keras.optimizers.SGD(settings["learning-rate"], settings["momentum"]),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.set_weights(message.content["arrays"].to_numpy_ndarrays())
    step_ends: list[float] = []
    note_end = tf.keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: step_ends.append(_process_age()))
    began = time.perf_counter()
    model.fit(x, y, batch_size=settings["batch-size"], verbose=0, callbacks=[note_end])
    seconds = time.perf_counter() - began
    metrics = {"train_seconds": seconds, "first_step_s": step_ends[0], "peak_rss_mb": _high_water_mark_mb()}
    records = {
        "arrays": ArrayRecord(model.get_weights()),
        "metrics": MetricRecord({**metrics, "num-examples": len(x)}),
    }
    return Message(content=RecordDict(records), reply_to=message)


def _process_age() -> float:
    """Seconds since the kernel started this process, to a clock tick (proc(5), stat, field 22)."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def _high_water_mark_mb() -> float:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6
