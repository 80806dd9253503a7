"""The systems that packages are made for: releases of Debian, which Raspberry Pi OS is made of, and their machines."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A release of Debian for an architecture."""

    suite: str
    release: int
    """Debian's number, which orders packages of one version: an upgrade of the system upgrades them."""
    python: str
    glibc: int
    """The minor version; it decides which wheels can be taken."""
    architecture: str
    machine: str
    """As uname tells it, and wheels."""

    @property
    def name(self) -> str:
        return f"{self.suite}-{self.architecture}"

    @property
    def is_32_bit(self) -> bool:
        """Then nobody publishes wheels of numpy, cffi, Pillow (all are Debian's) and msgspec (which is compiled)."""
        return self.architecture == "armhf"

    @property
    def tag(self) -> str:
        """Python's, in the names of wheels."""
        return f"cp{self.python.replace('.', '')}"

    @property
    def next_python(self) -> str:
        """The first version whose environments are laid out in another place."""
        major, minor = self.python.split(".")
        return f"{major}.{int(minor) + 1}"

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms whose wheels run there, as pip names them."""
        return (
            *(f"manylinux_2_{minor}_{self.machine}" for minor in range(self.glibc, 4, -1)),
            f"manylinux2014_{self.machine}",
        )

    @property
    def markers(self) -> dict[str, str]:
        """The environment that a requirement's markers are judged by."""
        return {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


_RELEASES = {"bookworm": (12, "3.11", 36), "trixie": (13, "3.13", 41)}
"""By their names: Debian's number, its Python, and the minor version of its glibc."""

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "armhf": "armv7l"}
"""As uname tells Debian's architectures."""


def target(suite: str, architecture: str) -> Target:
    return Target(suite, *_RELEASES[suite], architecture, _MACHINES[architecture])


TARGETS = (
    target("bookworm", "amd64"),
    target("bookworm", "arm64"),
    target("bookworm", "armhf"),
    target("trixie", "amd64"),
    target("trixie", "arm64"),
)
"""For 32-bit trixie there is no runtime, and so no package."""
