"""The versions of what is installed, as a report of a fault needs them."""

from __future__ import annotations

import platform
from importlib import metadata

from fedprune import __version__
from fedprune.doctor.finding import Finding, ok
from fedprune.wire.versions import SPOKEN

_SHOWN = ("numpy", "msgspec", "paho-mqtt", "ai-edge-litert", "tflite-runtime", "tensorflow")


def examine_versions() -> Finding:
    own = (f"fedprune {__version__} (protocol {SPOKEN.newest})", f"Python {platform.python_version()}")
    return ok("versions", ", ".join((*own, *_installed())))


def _installed() -> list[str]:
    found = []
    for name in _SHOWN:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found
