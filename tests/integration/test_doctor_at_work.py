"""`fedprune doctor` on machines as they are at work: while the agent trains, and on a processor that is too old."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import MISSING, Mosquitto, free_port
from tests.federations import Site
from tests.processes import FEDPRUNE, Child


def doctor(config: Path, *by: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The command's exit code, and what it found by the name of the check; `by` is what starts it."""
    done = subprocess.run([*by, *FEDPRUNE, "doctor", config, "--json"], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, {finding["check"]: finding for finding in json.loads(done.stdout)}


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_an_agent_that_trains_keeps_its_connection_and_proves_its_rights_itself(
    tmp_path: Path, mosquitto: Mosquitto, tiny_task: Path
) -> None:
    site = Site(tmp_path, mosquitto.url, tiny_task)
    one = {"count": 100_000, "cohort": 1, "quorum": 1.0, "deadline_s": 600.0, "gather_s": 600.0}
    config = site.agent("pi-1")
    with Child("aggregator", site.federation("run", rounds=one)), Child("agent", "--config", config) as agent:
        agent.says("round 2: training")
        code, found = doctor(config)
        agent.says(": training")
        assert code == 0, found
        assert found["access list"]["verdict"] == found["credentials"]["verdict"] == "ok"
        assert ": round" in found["agent"]["told"]
        assert "lost" not in agent.stderr
        assert agent.stderr.count("connected") == 1


@pytest.mark.skipif(platform.machine() != "x86_64", reason="it is told what an x86-64 processor has")
def test_a_processor_without_what_litert_needs_is_named(tmp_path: Path) -> None:
    """What the kernel tells of the processor is another file in a mount namespace of the command's own."""
    (tmp_path / "cpuinfo").write_text("model name\t: Core 2\nflags\t\t: fpu sse sse2 ssse3 cx16\n")
    mount = 'mount --bind "$0" /proc/cpuinfo && exec "$@"'
    inside = ("unshare", "--mount", "sh", "-c", mount, str(tmp_path / "cpuinfo"))
    if os.geteuid() != 0 or subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root can mount over what the kernel tells")
    code, found = doctor(Site(tmp_path, f"mqtt://127.0.0.1:{free_port()}", Path()).agent("pi-1"), *inside)
    assert code == 1
    assert found["processor"]["verdict"] == "failed"
    assert found["processor"]["told"] == "x86_64 without popcnt, sse4_1, sse4_2, which LiteRT needs"
