"""The last run of a sub-gateway, as a process after it finds it on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.runner import AggregatorRunner
from aggregator.sub_gateway.run import last_run
from tests.gateways import Site, begin
from tests.unit.test_sub_gateway_process import BEGUN, DONE, NAME, Below
from tests.unit.test_sub_gateway_rounds import PARENT


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[tuple[Site, AggregatorRunner]]:
    site = Site(tmp_path / "parent")
    yield site, begin(site, (NAME,), plan=replace(PARENT, cohort=1, quorum=1))
    site.book.close()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"format":9}', "format 9, this fedprune reads 1; use the version that wrote it, or delete"),
        (b"{}", "format 0, this fedprune reads 1"),
        (b'["task",7,0,1,"","",0.0]', "format 0, this fedprune reads 1; use the version that wrote it, or delete"),
        (b'{"format":1}', "damaged (Object missing required field"),
        (b"", "damaged"),
    ],
)
def test_terms_that_cannot_be_read_are_said_in_one_line_once_and_the_sub_gateway_goes_on(
    tmp_path: Path,
    parent: tuple[Site, AggregatorRunner],
    caplog: pytest.LogCaptureFixture,
    content: bytes,
    said: str,
) -> None:
    site, runner = parent
    killed = Below(tmp_path / "below", site, runner)
    killed.connect()
    killed.gateway.close()
    (file,) = (tmp_path / "below").rglob("terms.json")
    file.write_bytes(content)
    below = Below(tmp_path / "below", site, runner)
    below.reach()

    below.hear(DONE)
    below.gateway.tick()

    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert f"the agents of the last federation are not told that it is over: {file}: {said}" in line
    assert "\n" not in line
    below.gateway.close()


def test_a_sub_gateway_that_waits_looks_for_its_last_run_once(
    tmp_path: Path, parent: tuple[Site, AggregatorRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, runner = parent
    looked = list[Path]()

    def look(state: Path) -> Path | None:
        looked.append(state)
        return last_run(state)

    monkeypatch.setattr("aggregator.sub_gateway.process.last_run", look)
    below = Below(tmp_path / "below", site, runner)
    below.reach()
    for manifest in (BEGUN, DONE, DONE):
        below.hear(manifest)
        assert not below.gateway._is_over() or manifest.done

    assert len(looked) == 1
    below.gateway.close()
