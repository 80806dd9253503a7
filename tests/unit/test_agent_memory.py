"""What the comparison of memory makes of its figures, and how it counts what is installed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks.agent_memory.environments import Environment
from benchmarks.agent_memory.figures import Figures
from benchmarks.agent_memory.limits import claims
from benchmarks.claims import settle

_GOOD = Figures(
    peak_rss_mb=90.0,
    idle_rss_mb=43.0,
    installed_mb=145.0,
    first_step_s=0.7,
    samples_per_s=4500.0,
    trained_in_64_mb=True,
)
_LARGE = Figures(peak_rss_mb=700.0, idle_rss_mb=43.0, installed_mb=2300.0, first_step_s=6.0, samples_per_s=7000.0)


def _missed(litert: Figures, keras: Figures = _LARGE, flower: Figures = _LARGE) -> list[str]:
    made = claims({"litert": litert, "keras": keras, "flower": flower})
    return [claim for claim, holds in made.items() if holds is False]


def test_good_figures_miss_nothing() -> None:
    assert _missed(_GOOD) == []


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"peak_rss_mb": 100.1}, "peak 100.10 MB, at most 100"),
        ({"idle_rss_mb": 45.1}, "idle 45.10 MB, at most 45"),
        ({"installed_mb": 160.1}, "installed 160.10 MB, at most 160"),
        ({"first_step_s": 2.01}, "first step after 2.01 s, at most 2"),
        ({"trained_in_64_mb": False}, "a whole round in a cgroup of 64 MB"),
    ],
)
def test_each_limit_is_checked(change: dict[str, float], claim: str) -> None:
    assert _missed(msgspec.structs.replace(_GOOD, **change)) == [claim]


@pytest.mark.parametrize("name", ["keras", "flower"])
def test_a_comparison_that_is_too_close_is_missed(name: str) -> None:
    close = msgspec.structs.replace(_LARGE, peak_rss_mb=539.0)
    assert _missed(_GOOD, **{name: close}) == [f"5.99x less than {name} at its peak, at least 6x"]


def test_a_cgroup_that_could_not_be_made_is_not_tried_and_not_missed(capsys: pytest.CaptureFixture[str]) -> None:
    untried = msgspec.structs.replace(_GOOD, trained_in_64_mb="not permitted")
    with pytest.raises(SystemExit) as left:
        settle(claims({"litert": untried, "keras": _LARGE, "flower": _LARGE}))
    assert left.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1] == "not tried  a whole round in a cgroup of 64 MB: not permitted"


def test_installed_is_all_but_pip_and_setuptools(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name in ("pip", "pip-23.2.1.dist-info", "setuptools-65.5.0.dist-info", "numpy/core", "numpy-2.4.6.dist-info"):
        (packages / name).mkdir(parents=True)
        (packages / name / "file").write_bytes(bytes(1_000_000))
    (packages / "typing_extensions.py").write_bytes(bytes(500_000))
    assert Environment(tmp_path).installed_mb == 2.5
