"""The units of a package, as the systemd of a release knows them."""

from __future__ import annotations

import shutil
from pathlib import Path

from deploy.debian.targets import Target

_BACK_OFF = """\
# Pauses between starts grow. systemd knows this since Debian 13.
[Service]
RestartSteps=6
RestartMaxDelaySec=10min
"""
_KNOWS_BACK_OFF = 13


def put_units(source: Path, target: Target, root: Path) -> None:
    """Put the units that lie in `source` where a package whose files are below `root` has them."""
    units = root / "usr" / "lib" / "systemd" / "system"
    units.mkdir(parents=True)
    for path in sorted(source.glob("*.*")):
        if path.suffix in (".service", ".path"):
            shutil.copy(path, units)
            if path.suffix == ".service" and target.release >= _KNOWS_BACK_OFF:
                (units / f"{path.name}.d").mkdir()
                (units / f"{path.name}.d" / "back-off.conf").write_text(_BACK_OFF)
