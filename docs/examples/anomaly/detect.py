"""Tells a worn bearing from normal ones by the error of the exported autoencoder: ``python detect.py fp32.tflite``."""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter(sys.argv[1])
run = interpreter.get_signature_runner()
(name,) = run.get_input_details()


def errors(x: np.ndarray) -> np.ndarray:
    """The mean squared error of each example."""
    answers = [next(iter(run(**{name: row[None]}).values()))[0] for row in x]
    return np.square(np.array(answers) - x).mean(axis=1)


test = np.load("test.npz")
threshold = np.quantile(errors(np.load("normal.npz")["x"][:500]), 0.99)
for kind in ("normal", "worn"):
    print(f"{kind}: {(errors(test[kind]) > threshold).mean():.0%} are told to be anomalies")
