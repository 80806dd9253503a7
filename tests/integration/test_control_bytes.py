"""The benchmark of control bytes: devices that have joined a gateway, behind a relay that counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.brokers import MISSING

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]


def test_a_joined_devices_round_is_counted_by_kind_and_compared_with_its_sockets(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.control_bytes", "--json", tmp_path / "rows.json"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    secured, plain = json.loads((tmp_path / "rows.json").read_text())
    assert secured["passed"] > plain["passed"], "TLS has bytes of its own"
    for row in (secured, plain):
        assert row["payload_up"].keys() == {"control", "update"}
        assert row["payload_down"].keys() == {"control", "model"}
