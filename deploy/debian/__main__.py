"""Makes the Debian packages: `python -m deploy.debian [TARGET ...]`, which `make deb` starts with what it needs.

A target is a release and an architecture, as bookworm-arm64; without any, all are made. The last of the packages'
contents that takes TensorFlow, the task of the first try, is made before, by `make deb`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from deploy.debian.package import AGENT, GATEWAY, Built, Package, build
from deploy.debian.targets import TARGETS

_REPOSITORY = Path(__file__).parents[2]
_MB = 1e6
_SHIPPED = "xz"

MOST_DEB_MB, MOST_INSTALLED_MB = 50.0, 200.0
"""Of the agent's package: what a Pi on a mobile network can still fetch, and a small card holds."""


def main() -> int:
    """1 if a package is too large."""
    asked = _arguments()
    targets = [target for target in TARGETS if not asked.targets or target.name in asked.targets]
    if unknown := set(asked.targets) - {target.name for target in TARGETS}:
        sys.exit(f"no such target: {', '.join(unknown)}; there are {', '.join(target.name for target in TARGETS)}")
    version = tomllib.loads((_REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    os.environ.setdefault("SOURCE_DATE_EPOCH", _commit_time())
    asked.out.mkdir(parents=True, exist_ok=True)
    is_small = True
    with tempfile.TemporaryDirectory(dir=asked.out) as name:
        scratch = Path(name)
        wheel = _wheel(scratch)
        for target in targets:
            for package in (AGENT, GATEWAY):
                built = build(
                    package,
                    target,
                    version,
                    wheel,
                    asked.shared / package.directory,
                    scratch,
                    asked.out,
                    asked.compression,
                )
                is_small &= _say(package, built, is_shipped=asked.compression == _SHIPPED)
    return 0 if is_small else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.debian", description="Make the Debian packages.")
    parser.add_argument("targets", nargs="*", help="such as bookworm-arm64; all, if none is named")
    parser.add_argument("--out", type=Path, default=_REPOSITORY / "dist", help="where the packages go")
    parser.add_argument(
        "--compression", choices=(_SHIPPED, "gzip"), default=_SHIPPED, help="gzip is quicker, for trials"
    )
    parser.add_argument("--shared", type=Path, required=True, help="the first task and its data, from first_task.py")
    return parser.parse_args()


def _commit_time() -> str:
    """Of what is packaged, so that the same sources make the same package."""
    command = ["git", "-C", str(_REPOSITORY), "log", "-1", "--format=%ct"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _wheel(scratch: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(scratch)]
    subprocess.run(command, cwd=_REPOSITORY, check=True, capture_output=True)
    (wheel,) = scratch.glob("*.whl")
    return wheel


def _say(package: Package, built: Built, *, is_shipped: bool) -> bool:
    """Print a package's sizes; False if it is too large."""
    deb, installed = built.bytes / _MB, built.installed_bytes / _MB
    is_small = package is not AGENT or not is_shipped or (deb <= MOST_DEB_MB and installed <= MOST_INSTALLED_MB)
    print(
        f"{built.path.name}: {deb:.1f} MB, installed {installed:.1f} MB{'' if is_small else ': TOO LARGE'}", flush=True
    )
    return is_small


if __name__ == "__main__":
    sys.exit(main())
