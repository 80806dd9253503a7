"""32-bit Arm, which nobody publishes all wheels for: msgspec is compiled here, and some are taken from Debian there."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.debian.targets import Target

LOCK = Path(__file__).with_name("armhf.txt")
"""Pins what only 32-bit Arm takes."""

FROM_DEBIAN = {"numpy": "python3-numpy", "cffi": "python3-cffi-backend", "pillow": "python3-pil"}
"""Distributions that are Debian's there, and in which package."""

REPLACED = ("ai-edge-litert", "backports-strenum", "ml-dtypes", "protobuf", "pycparser", "tqdm")
"""LiteRT has a predecessor there; the others are what LiteRT and cffi need."""

_TRIPLET = "arm-linux-gnueabihf"


def compile_msgspec(target: Target, pin: str, site: Path) -> None:
    """Compile msgspec's source distribution, which `pin` names with its hash, into `site`, with a cross compiler."""
    with tempfile.TemporaryDirectory() as scratch:
        pinned = Path(scratch, "pin.txt")
        pinned.write_text(pin + "\n")
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
        source = ("--no-binary", ":all:", "--require-hashes", "--requirement", str(pinned), "--dest", scratch)
        subprocess.run([*pip, *source], check=True)
        (archive,) = Path(scratch).glob("*.tar.gz")
        subprocess.run(["tar", "--extract", "--file", archive, "--directory", scratch], check=True)
        (about,) = Path(scratch).glob("*/PKG-INFO")
        package = site / "msgspec"
        shutil.copytree(about.parent / "src" / "msgspec", package)
        described = site / f"{about.parent.name}.dist-info"
        (described / "licenses").mkdir(parents=True)
        shutil.copy(about, described / "METADATA")
        shutil.copy(about.parent / "LICENSE", described / "licenses")
        _compile(target, package, _headers(target, Path(scratch)))


def _headers(target: Target, scratch: Path) -> Path:
    """A root file system with Python's headers for the target."""
    root = scratch / "root"
    root.mkdir()
    archive = scratch / "root.tar"
    options = ("--variant=extract", "--architectures=armhf", "--include=libpython3-dev,libc6-dev")
    subprocess.run(["mmdebstrap", "--quiet", *options, target.suite, archive, _debian_archive()], check=True)
    unpacked = ("--directory", root, "--no-same-owner", "--exclude=./dev/*")
    subprocess.run(["tar", "--extract", "--file", archive, *unpacked], check=True)
    return root


def _debian_archive() -> str:
    """Where apt gets Debian's packages on this machine."""
    targets = ("Created-By: Packages", "Origin: Debian", "Label: Debian", "Component: main")
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", *targets]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


def _compile(target: Target, package: Path, root: Path) -> None:
    """`target`'s Python names compiled modules after itself and its machine."""
    library = package / f"_core.cpython-{target.python.replace('.', '')}-{_TRIPLET}.so"
    flags = ("-shared", "-fPIC", "-O2", "-g0", "-DNDEBUG", f"--sysroot={root}")
    headers = ("-I", root / "usr" / "include" / f"python{target.python}")
    compiler = f"{_TRIPLET}-gcc"
    subprocess.run([compiler, *flags, *headers, package / "_core.c", "-o", library], check=True)
    (package / "_core.c").unlink()
