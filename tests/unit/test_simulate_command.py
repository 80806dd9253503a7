"""`fedprune simulate` before it starts anything: what it refuses. `tests/integration/test_examples.py` runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.simulate import simulate
from fedprune.errors import ConfigurationError, DataError


def _site(directory: Path, count: int = 40) -> Path:
    (directory / "task.toml").write_text('[data]\nform = "arrays"\n')
    (directory / "federation.toml").write_text('task = "task.fedtask"\nstate = "run"\nrounds.cohort = 4\n')
    (directory / "agent.toml").write_text('name = "agent-1"\ndata = "mine.npz"\n')
    np.savez(directory / "mine.npz", x=np.zeros((count, 3)), y=np.arange(count) % 2)
    return directory


def _refusal(*arguments: str | Path) -> BaseException:
    result = CliRunner().invoke(simulate, [*map(str, arguments)])
    assert result.exception is not None
    return result.exception


def test_a_directory_that_init_has_not_written_says_how_to_have_it_written(tmp_path: Path) -> None:
    (tmp_path / "my photos").mkdir()
    refusal = _refusal(tmp_path / "my photos")
    assert isinstance(refusal, ConfigurationError)
    assert f"`fedprune init '{tmp_path}/my photos' --from MODEL --data PATH` writes one" in str(refusal)


def test_a_directory_without_data_says_how_to_name_them(tmp_path: Path) -> None:
    (_site(tmp_path) / "agent.toml").unlink()
    refusal = _refusal(tmp_path)
    assert isinstance(refusal, ConfigurationError)
    assert "name them with --data" in str(refusal)


def test_somebody_elses_files_are_not_cleared(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "run").write_text("x")
    refusal = _refusal(_site(tmp_path), "--out", tmp_path / "precious")
    assert isinstance(refusal, ConfigurationError)
    assert "not empty, and not from a simulation" in str(refusal)
    assert (tmp_path / "precious" / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"), [(("--agents", "60"), "40 examples are too few for 60 agents"), (("--partition", "group"), "")]
)
def test_data_that_cannot_be_shared_out_are_one_line(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    refusal = _refusal(_site(tmp_path), *options)
    assert isinstance(refusal, DataError)
    assert (said or "nothing tells groups apart") in str(refusal)
