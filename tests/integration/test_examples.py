"""The examples in docs/examples do what their READMEs say: every command, in order, with fewer rounds."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.snippets import ROOT, blocks
from tests.preloaded import TENSORFLOW, preloaded

_EXAMPLES = ROOT / "docs" / "examples"
_TIMEOUT_S = 900
_ROUNDS = 4

_IN_EVERY_RUN = ("images", "sensors", "keywords", "tabular", "text")
"""A kind of data each: three commands, and no file is edited."""
_LONGER = ("anomaly", "transfer")


def test_every_example_is_run() -> None:
    assert {path.parent.name for path in _EXAMPLES.glob("*/README.md")} == {*_IN_EVERY_RUN, *_LONGER}


@pytest.mark.parametrize("name", [*_IN_EVERY_RUN, *(pytest.param(name, marks=pytest.mark.slow) for name in _LONGER)])
def test_an_example_works_as_its_readme_says(name: str, tmp_path: Path) -> None:
    left_out = shutil.ignore_patterns("mine", "__pycache__")
    place = Path(shutil.copytree(_EXAMPLES / name, tmp_path / name, ignore=left_out))
    shown = [command for block in blocks(_EXAMPLES / name / "README.md") for command in block.commands]
    said = "".join(_typed(command, place) for command in shown)

    rounds = [line for line in said.splitlines() if line.startswith("round ")]
    assert len(rounds) == _ROUNDS
    losses = [float(line.partition("loss ")[2].partition(",")[0]) for line in rounds]
    assert min(losses[1:]) < losses[0]
    assert list((place / "mine" / "simulation" / "run" / "export").glob("*.tflite"))


def _typed(command: str, directory: Path) -> str:
    """What a command says that is typed in that directory. Exports make the float file alone, which takes less time."""
    words = shlex.split(command)
    if words[:2] == ["fedprune", "init"]:
        words += ["--rounds", str(_ROUNDS), "--sparsity", "0.5"]
    if words[:2] == ["fedprune", "export"] and "--formats" not in words:
        words += ["--formats", "fp32"]
    if words[0] == "fedprune":
        code, output, errors = preloaded(TENSORFLOW).run("fedprune.command", *words[1:], directory=directory)
    else:
        done = subprocess.run(
            [sys.executable, *words[1:]], cwd=directory, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
        code, output, errors = done.returncode, done.stdout, done.stderr
    assert code == 0, f"$ {command}\n{output}{errors}"
    return output
