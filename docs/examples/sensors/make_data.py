"""Writes what an accelerometer at the belt would record of twelve people who sit, walk and run, into one CSV file."""

import csv

import numpy as np

PEOPLE, ROWS = 12, 640  # rows of each activity, at 50 a second

random = np.random.default_rng(1)
time = np.arange(ROWS) / 50
with open("people.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["person", "time", "ax", "ay", "az", "activity"])
    for person in range(PEOPLE):
        pace, strength = random.uniform(0.8, 1.2), random.uniform(0.7, 1.3)
        tilt = random.normal(0, 0.5, 3)
        for activity, hertz, swing in (("sitting", 0.2, 0.05), ("walking", 1.8, 2.0), ("running", 2.8, 6.0)):
            phase = 2 * np.pi * hertz * pace * time + random.uniform(0, 6)
            moves = swing * strength * np.stack([np.sin(phase), np.cos(2 * phase) / 2, np.sin(phase + 1)])
            seen = moves + tilt[:, None] + np.array([[0], [0], [9.8]]) + random.normal(0, 0.4, moves.shape)
            for second, (ax, ay, az) in zip(time, seen.T, strict=True):
                rows.writerow([f"p{person}", f"{second:.2f}", f"{ax:.3f}", f"{ay:.3f}", f"{az:.3f}", activity])
