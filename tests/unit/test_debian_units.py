"""The units of the Debian packages: systemd finds nothing wrong with them, and little that they could do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.debian.targets import TARGETS, Target
from deploy.debian.units import put_units
from tests.brokers import EXECUTABLE

_DEPLOYED = Path(__file__).parents[2] / "deploy" / "debian"
_UNITS = sorted(path for suffix in ("service", "path") for path in _DEPLOYED.glob(f"*/*.{suffix}"))
_SERVICES = [path for path in _UNITS if path.suffix == ".service"]
_THRESHOLD = 20
"""systemd's exposure of 2.0, in tenths."""

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def _analyze(*arguments: str | Path, units: Path | None = None) -> tuple[int, str]:
    environment = dict(os.environ) if units is None else {**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"}
    command = ("systemd-analyze", *arguments)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("unit", _SERVICES, ids=lambda unit: unit.name)
def test_a_service_is_exposed_by_2_at_most(unit: Path) -> None:
    code, said = _analyze("security", "--offline=true", f"--threshold={_THRESHOLD}", unit)
    assert code == 0, said


@pytest.mark.skipif(EXECUTABLE is None, reason="Mosquitto is not installed")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    """With programs that exist here in the place of those that a package brings."""
    for unit in _UNITS:
        text = unit.read_text()
        for package in ("agent", "gateway"):
            text = text.replace(f"/usr/lib/fedprune-{package}/bin/fedprune", sys.executable)
        (tmp_path / unit.name).write_text(text.replace("/usr/sbin/mosquitto", str(EXECUTABLE)))
    units = [tmp_path / unit.name for unit in _UNITS]
    code, said = _analyze("verify", "--man=no", "--recursive-errors=yes", *units, units=tmp_path)
    assert (code, said) == (0, "")


@pytest.mark.parametrize("unit", _SERVICES, ids=lambda unit: unit.name)
def test_a_service_is_a_guest_on_its_machine(unit: Path) -> None:
    """It has bounds, ends soon, and is started again however often it has failed."""
    settings = dict(line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line and line[0] != "#")
    bounds = {"MemoryMax", "CPUQuota", "TasksMax", "Nice", "RestartSec", "TimeoutStopSec", "User"}
    assert settings.keys() >= bounds
    assert (settings["Type"], settings["IOSchedulingClass"]) == ("notify", "idle")
    assert (settings["Restart"], settings["StartLimitIntervalSec"]) == ("on-failure", "0")
    assert int(settings["Nice"]) > 0
    assert ("WatchdogSec" in settings) is ("bin/fedprune" in settings["ExecStart"])  # Mosquitto knows of none


@pytest.mark.parametrize("side", ["agent", "gateway"])
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_pauses_between_restarts_grow_where_systemd_can_have_them_grow(
    tmp_path: Path, side: str, target: Target
) -> None:
    put_units(_DEPLOYED / side, target, tmp_path)
    units = tmp_path / "usr/lib/systemd/system"
    services = {path.name for path in units.glob("*.service")}
    assert services == {path.name for path in _SERVICES if path.parent.name == side}
    growing = {path.parent.name.removesuffix(".d") for path in units.glob("*.d/*.conf") if "Steps" in path.read_text()}
    assert growing == (services if target.suite == "trixie" else set())


def test_the_gateways_service_sees_its_broker_which_it_has_to_tell_to_reload() -> None:
    """Services with PrivateUsers= are in namespaces of their own, and may not trace each other: hidden is what nobody
    may trace."""
    unit = (_DEPLOYED / "gateway" / "fedprune-gateway.service").read_text()
    assert "\nProtectProc=" not in unit
    assert "\nProcSubset=" not in unit
