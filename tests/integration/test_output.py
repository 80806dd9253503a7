"""Standard output and standard error that are closed, full, or without a reader: with real processes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.brokers import MISSING, Mosquitto
from tests.federations import Site
from tests.patience import PATIENCE_S
from tests.processes import FEDPRUNE, Child, toml

if TYPE_CHECKING:
    from tests.fixtures_tflite import TinyModels

pytest_plugins = ["tests.fixtures_tflite"]

_NO_READER = "exec 3> >(:); wait $!; "
"""Opens descriptor 3 on a pipe whose reader has gone."""


def _shell(how: str, *arguments: str | Path, by: tuple[str, ...] = FEDPRUNE) -> subprocess.CompletedProcess[str]:
    """Run a command as `how` says, "$@" being the command."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", how, "bash", *by, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ('"$@" >/dev/full', "No space left on device"),
        ('"$@" >&-', "Bad file descriptor"),
        (_NO_READER + '"$@" >&3', "Broken pipe"),
    ],
    ids=["full", "closed", "no reader"],
)
@pytest.mark.parametrize(
    "command",
    [("task", "show", "TASK"), ("task", "show", "TASK", "--json"), ("--help",), ("benchmark", "MODEL", "--json", "-")],
)
def test_a_command_whose_output_is_its_work_ends_with_one_line_and_a_code(
    tiny_task: Path, tiny_models: TinyModels, command: tuple[str, ...], how: str, why: str
) -> None:
    files: dict[str, str | Path] = {"TASK": tiny_task, "MODEL": tiny_models.fp32}
    done = _shell(how, *(files.get(word, word) for word in command))

    assert done.returncode == 7, done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"fedprune: standard output takes nothing ({why}); give it a reader, or a file on a disk with space"
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("how", ['"$@" 2>&-', '"$@" 2>/dev/full', _NO_READER + '"$@" 2>&3', '"$@" 2>&- <&-'])
def test_what_is_said_on_standard_error_is_dropped(tiny_models: TinyModels, tmp_path: Path, how: str) -> None:
    report = tmp_path / "report.json"
    done = _shell(how, "benchmark", tiny_models.fp32, "--num_runs", "2", "--json", report)

    assert done.returncode == 0
    assert "fp32.tflite" in done.stdout
    assert json.loads(report.read_text())["models"][0]["latency_ms"]


def test_an_error_that_cannot_be_said_keeps_its_code() -> None:
    assert _shell('"$@" 2>&-', "task", "show", "nowhere.fedtask").returncode == 7
    assert _shell('"$@" 2>/dev/full', "task", "build", "nowhere.toml", "--out", "x").returncode == 3


def test_a_file_of_the_work_is_not_taken_for_a_stream_that_was_closed(tmp_path: Path) -> None:
    """With every stream closed the first file would be descriptor 0, and what is said would go into another."""
    program = (
        "import click, os, sys; from fedprune.system.output import install_streams; install_streams();"
        "file = open(sys.argv[1], 'wb'); click.echo('noise', err=True); os.write(2, b'noise'); sys.exit(file.fileno())"
    )
    done = _shell('"$@" <&- >&- 2>&-', "-c", program, tmp_path / "book", by=(FEDPRUNE[0],))
    assert done.returncode > 2
    assert (tmp_path / "book").read_bytes() == b""


@pytest.mark.parametrize(
    "how",
    [
        '"$@" >&- 2>&-',
        pytest.param('"$@" >/dev/full 2>&1', marks=pytest.mark.slow),
        pytest.param(_NO_READER + '"$@" >&3 2>&3', marks=pytest.mark.slow),
    ],
    ids=["closed", "full", "gone"],
)
def test_a_bundle_is_built_whoever_listens(tmp_path: Path, how: str) -> None:
    schedule = {"kind": "constant", "target_sparsity": 0.5, "begin_step": 0, "frequency": 1}
    settings = {
        "name": "unheard",
        "model": {"builtin": "cnn-108k"},
        "training": {"steps_per_round": 1, "batch_size": 1},
        "pruning": {"schedule": schedule},
    }
    (tmp_path / "task.toml").write_text(toml(settings))
    done = _shell(how, "task", "build", tmp_path / "task.toml", "--out", tmp_path / "task.fedtask")
    assert done.returncode == 0
    assert (tmp_path / "task.fedtask").exists()


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
@pytest.mark.parametrize(
    "how",
    ['exec "$@" 2>&-', 'exec "$@" >/dev/full 2>&1', _NO_READER + 'exec "$@" >&3 2>&3'],
    ids=["closed", "full", "gone"],
)
def test_a_federation_goes_on_unheard(tmp_path: Path, mosquitto: Mosquitto, tiny_task: Path, how: str) -> None:
    site = Site(tmp_path, mosquitto.url, tiny_task)
    rounds = {"count": 3, "cohort": 2, "quorum": 1.0, "deadline_s": 300.0, "gather_s": 300.0}
    unheard = ("bash", "-o", "pipefail", "-c", how, "bash", *FEDPRUNE)
    with (
        Child("aggregator", site.federation("run", rounds=rounds), "--json", by=unheard) as aggregator,
        Child("agent", "--config", site.agent("pi-1"), by=unheard),
        Child("agent", "--config", site.agent("pi-2"), by=unheard),
    ):
        assert aggregator.ends() == 0
    assert len(list((tmp_path / "run" / "checkpoints").glob("*.safetensors"))) == 4
