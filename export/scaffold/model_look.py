"""A look at a person's model, in a process of its own, since TensorFlow and their code run there."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fedprune.errors import TaskError

_CHILD = "export.scaffold.model_child"


class OutputLook(msgspec.Struct, frozen=True):
    """An output: its shape without the batch, its name where there are several, and the last layer's activation, which
    is `linear` where the last layer has none. `rescales`: the last layer brings the answer to a scale of its own."""

    shape: tuple[int, ...]
    name: str
    activation: str
    rescales: bool = False


class ModelLook(msgspec.Struct, frozen=True, tag="model"):
    """What init has to know of a model. Shapes are without the batch; vocabularies are None for inputs of numbers.

    `pixel_scale` and `normalizes` are as `export.scaffold.input_scale` has them.
    """

    source: str
    name: str
    inputs: tuple[tuple[int, ...], ...]
    vocabularies: tuple[int | None, ...]
    outputs: tuple[OutputLook, ...]
    parameters: int
    prunable: int
    frozen: int
    pixel_scale: float | None
    normalizes: bool


class Candidates(msgspec.Struct, frozen=True, tag="candidates"):
    """The names in a Python file of which each may be the model."""

    names: tuple[str, ...]


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Why a model cannot be used."""

    reason: str


Answer = ModelLook | Candidates | Refused


def look_at_model(source: str, base: Path) -> ModelLook | Candidates:
    """The model that `source` names, relative to `base`, as ``model.file`` does; or what it may be in a Python file.

    Raises `TaskError` for a model that cannot be had, or of which no device could train.
    """
    with tempfile.TemporaryDirectory() as directory:
        answered = Path(directory) / "answer.json"
        done = subprocess.run(
            [sys.executable, "-P", "-m", _CHILD, source, str(base), str(answered)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if not answered.exists():
            raise TaskError(f"{source}: looking at the model ended with {_ending(done.returncode, done.stdout)}")
        answer: Answer = msgspec.json.decode(answered.read_bytes(), type=Answer)
    if isinstance(answer, Refused):
        raise TaskError(answer.reason)
    return answer


def _ending(code: int, said: bytes) -> str:
    if code < 0:
        return f"{signal.strsignal(-code) or f'signal {-code}'}; does it need more memory than there is?"
    return f"exit code {code}: {_last_line(said.decode(errors='replace').splitlines())}"


def _last_line(lines: Sequence[str]) -> str:
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it said nothing")
