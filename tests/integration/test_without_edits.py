"""Data and a network as somebody has them: three commands, no file edited by hand, and the federation learns."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.docs.snippets import ROOT
from tests.preloaded import TENSORFLOW, preloaded

pytestmark = pytest.mark.slow

_MOBILENET = """
import keras

def make_model():
    return keras.applications.MobileNet(input_shape=(96, 96, 3), alpha=0.25, weights=None, classes=3)
"""


def test_windows_of_thirty_people_in_one_table(tmp_path: Path) -> None:
    model = (ROOT / "docs" / "examples" / "sensors" / "model.py").read_text()
    (tmp_path / "model.py").write_text(model)
    _record_people(tmp_path / "people.csv", 30)

    said = _commands(tmp_path, "people.csv", agents=8, rounds=4)

    assert "group person" in said
    assert "by group" in said or ", group" in said
    assert len([line for line in said.splitlines() if line.startswith("round ")]) == 4


def test_pictures_in_folders_with_a_mobilenet(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(_MOBILENET)
    random = np.random.default_rng(1)
    for label, colour in (("red", (200, 40, 40)), ("green", (40, 200, 40)), ("blue", (40, 40, 200))):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(40):
            pixels = np.array(colour) + random.normal(0, 30, (120, 160, 3))
            picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            picture.save(tmp_path / "photos" / label / f"{number}.jpg")

    said = _commands(tmp_path, "photos", agents=2, rounds=2)

    assert len([line for line in said.splitlines() if line.startswith("round ")]) == 2


def _commands(directory: Path, data: str, *, agents: int, rounds: int) -> str:
    """What init, simulate and export say."""
    said = ""
    for words in (
        f"init mine --from model.py --data {data} --agents {agents} --rounds {rounds}",
        "simulate mine",
        "export mine/simulation/run --formats fp32,int8",
    ):
        code, output, errors = preloaded(TENSORFLOW).run("fedprune.command", *words.split(), directory=directory)
        assert code == 0, f"$ fedprune {words}\n{output}{errors}"
        said += output
    return said


def _record_people(path: Path, people: int) -> None:
    """What an accelerometer records of people who sit, walk and run: each in a way of their own."""
    random, time = np.random.default_rng(1), np.arange(320) / 50
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["person", "ax", "ay", "az", "activity"])
        for person in range(people):
            pace = random.uniform(0.8, 1.2)
            for activity, hertz, swing in (("sitting", 0.2, 0.05), ("walking", 1.8, 2.0), ("running", 2.8, 6.0)):
                phase = 2 * np.pi * hertz * pace * time + random.uniform(0, 6)
                seen = swing * np.stack([np.sin(phase), np.cos(2 * phase), np.sin(phase + 1)])
                for ax, ay, az in (seen + random.normal(0, 0.4, seen.shape)).T:
                    rows.writerow([f"p{person}", f"{ax:.3f}", f"{ay:.3f}", f"{az:.3f}", activity])
