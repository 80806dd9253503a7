"""What the benchmarks' command lines have in common."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks.command_line import Script, json_option, write_json
from fedprune.errors import DataError


@click.command(cls=Script)
@json_option("Write it there.")
def _benchmark(target: Path | None) -> None:
    click.echo("working")
    write_json({"answer": 42}, target)


@click.command(cls=Script)
def _lacks_data() -> None:
    raise DataError("no data:\n  fetch them")


def test_json_is_written_where_it_is_wanted(tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    for _ in ("new", "overwritten"):
        assert CliRunner().invoke(_benchmark, ["--json", str(target)]).exit_code == 0
        assert json.loads(target.read_text()) == {"answer": 42}
    assert target.read_text().endswith("}\n")
    assert CliRunner().invoke(_benchmark, []).exit_code == 0


@pytest.mark.parametrize("target", ["nowhere/figures.json", "file/figures.json", ""])
def test_a_place_that_takes_no_file_is_refused_before_the_work(target: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(_benchmark, ["--json", str(tmp_path / target)])
    assert result.exit_code == 2
    assert "--json" in result.stderr
    assert "working" not in result.stdout


def test_a_file_that_takes_nothing_is_one_line() -> None:
    result = CliRunner().invoke(_benchmark, ["--json", "/dev/full"])
    assert result.exit_code == 7
    assert result.stderr.splitlines() == [
        "Error: --json /dev/full: No space left on device; give a file that can be written"
    ]


def test_an_error_is_one_line_and_its_exit_code() -> None:
    result = CliRunner().invoke(_lacks_data)
    assert result.exit_code == DataError.exit_code
    assert result.stderr.splitlines() == ["Error: no data: fetch them"]
