"""What Debian packages are made of: pins of lock files, maintainer scripts, bills of materials."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deploy.debian.pins import pins
from deploy.debian.scripts import maintainer_scripts
from deploy.debian.targets import TARGETS, Target

_REQUIREMENTS = Path(__file__).parents[2] / "requirements"
_BY_NAME = {target.name: target for target in TARGETS}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_whatever_a_package_bundles_is_pinned_by_hashes(target: Target) -> None:
    found = pins([_REQUIREMENTS / "debian-agent.txt"], target)
    assert {"msgspec", "numpy", "cryptography", "paho-mqtt"} <= found.keys()
    for name, text in found.items():
        assert "==" in text.splitlines()[0], name
        assert "--hash=sha256:" in text, name


def test_a_pin_holds_where_its_marker_does() -> None:
    lock = [_REQUIREMENTS / "aggregator.txt"]
    older, newer = (pins(lock, _BY_NAME[name])["numpy"].split()[0] for name in ("bookworm-arm64", "trixie-arm64"))
    assert older != newer


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_maintainer_scripts_are_whole(name: str) -> None:
    text = maintainer_scripts("fedprune-agent", ("fedprune-agent.service",), 10)[name]
    assert "@" not in text
    done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
