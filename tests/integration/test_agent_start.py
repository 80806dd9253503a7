"""An agent's start as its benchmark measures it, and what is claimed of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks.agent_start import Waiting, claims
from tests.brokers import MISSING

_PLAIN = Waiting("plain", [1.0, 1.4, 9.0], [44.0], [25.0], [44.0])
_JOINED = Waiting("joined", [1.1, 1.4, 1.5], [46.0], [26.0], [47.0])


def _missed(plain: Waiting, joined: Waiting) -> list[str]:
    return [claim for claim, holds in claims(plain, joined).items() if holds is False]


def test_good_figures_miss_nothing_and_one_late_start_is_no_miss() -> None:
    assert _missed(_PLAIN, _JOINED) == []


@pytest.mark.parametrize(
    ("plain", "joined", "claim"),
    [
        ({"online_s": [1.6]}, {}, "plain: online after 1.60 s, at most 1.5"),
        ({}, {"online_s": [1.6]}, "joined: online after 1.60 s, at most 1.5"),
        ({"resident_mb": [45.1]}, {}, "plain: waits in 45.1 MB, at most 45"),
        ({}, {"resident_mb": [55.1]}, "joined: waits in 55.1 MB, at most 55"),
        ({"resident_mb": [35.9]}, {}, "TLS with a client certificate takes 10.1 MB, at most 10"),
    ],
)
def test_each_limit_is_checked(plain: dict[str, list[float]], joined: dict[str, list[float]], claim: str) -> None:
    missed = _missed(msgspec.structs.replace(_PLAIN, **plain), msgspec.structs.replace(_JOINED, **joined))
    assert claim in missed


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_a_start_is_measured_without_tls_and_of_a_device_that_has_joined(tmp_path: Path) -> None:
    """How soon and how small this machine is no matter here."""
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.agent_start", "--starts", "1", "--json", str(figures)]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode in (0, 1), done.stderr
    plain, joined = json.loads(figures.read_text())
    assert (plain["connection"], joined["connection"]) == ("without TLS", "TLS, client certificate")
    for row in (plain, joined):
        assert 0.0 < row["proportional_mb"][0] <= row["resident_mb"][0] <= row["peak_mb"][0]
        assert row["online_s"][0] > 0.0
