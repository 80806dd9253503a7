"""Writes what heats a room: 1,600 rows of raw columns, and the power of the heater in watts."""

import csv

import numpy as np

random = np.random.default_rng(1)
count = 1600
outside, inside = random.uniform(-10, 18, count), random.normal(20, 1.5, count)
humidity, wind = random.uniform(30, 80, count), random.gamma(2, 2, count)
window = random.integers(0, 2, count)
watts = 45 * (inside - outside) * (1 + 0.05 * wind) * (1 + 0.6 * window) + 2 * humidity + random.normal(0, 30, count)
with open("rooms.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["outside_c", "inside_c", "humidity", "wind", "window_open", "watts"])
    for row in zip(outside, inside, humidity, wind, window, watts, strict=True):
        rows.writerow([f"{value:.4g}" for value in row])
