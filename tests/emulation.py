"""Debian on Arm, on this machine: a root file system of Debian's packages, its programs run by QEMU's emulator.

Nothing is booted, and no package's scripts are run: packages are extracted, wheels for the platform are added, and each
program runs in a mount namespace of its own, so that nothing has to be undone. It shows what works, never how fast.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.debian.targets import Target, target
from tests.patience import PATIENCE_S
from tests.shared import locked

_PINNED = Path(__file__).parents[1] / "requirements" / "agent.txt"
_HOME = "/home/pi"
_SHARED_PACKAGES = "usr/lib/python3/dist-packages"
_PROCESSORS = "sys/devices/system/cpu"
"""All that there is of /sys. What this machine's says of its processor makes LiteRT 2.3 crash there; without the number
of processors it computes without XNNPACK, and so not as it does on a Pi."""

_MARKERS = ("platform_machine", "python_version", "python_full_version")
"""Those in which the systems differ from this machine."""


_ENTER = """
for shared in dev proc; do mount --rbind "/$shared" "$0/$shared"; done
mount --bind "$2" "$0/$3"
mount --bind "$4" "$0/$5"
export -n $(compgen -e)
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME="$5" PYTHONUNBUFFERED=1 QEMU_CPU="$1"
exec chroot "$0" /usr/bin/python3 "${@:6}"
"""
"""What bash does with: the root, a processor, twice what to mount and where, Python's arguments."""

_START_PYTHON = """\
#!/usr/bin/{emulator} /usr/bin/python{python}
# The kernel cannot run Python here, only the emulator. With this as /usr/bin/python3, Python can start Python.
import os, sys
os.execv("/usr/bin/{emulator}", ["{emulator}", "-0", sys.argv[0], "/usr/bin/python{python}", *sys.argv[1:]])
"""


class UnavailableError(Exception):
    """This machine cannot have that system; the message says why."""


@dataclass(frozen=True)
class System:
    """A release of Debian for an architecture that is emulated here."""

    target: Target
    cpu: str
    """One that exists: the emulator's default has what no processor has, and numpy warns of it."""
    emulator: str
    triplet: str

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def is_32_bit(self) -> bool:
        return self.target.is_32_bit

    @property
    def python(self) -> str:
        return self.target.python

    @property
    def machine(self) -> str:
        return self.target.machine

    @property
    def compiler(self) -> str:
        return f"{self.triplet}-gcc"

    @property
    def local_packages(self) -> str:
        """Where Python looks for what is not Debian's."""
        return f"usr/local/lib/python{self.python}/dist-packages"


def _arm64(suite: str, cpu: str) -> System:
    return System(target(suite, "arm64"), cpu, "qemu-aarch64-static", "aarch64-linux-gnu")


def _armhf(suite: str) -> System:
    return System(target(suite, "armhf"), "cortex-a7", "qemu-arm-static", "arm-linux-gnueabihf")


BOOKWORM_64 = _arm64("bookworm", "cortex-a53")
BOOKWORM_32 = _armhf("bookworm")
TRIXIE_64 = _arm64("trixie", "cortex-a72")
TRIXIE_32 = _armhf("trixie")


class Device:
    """A system with the project's wheel installed, and a home directory that lies on this machine."""

    def __init__(self, system: System, image: Path, wheel: Path, directory: Path) -> None:
        self.system = system
        self.home, installed = directory / "home", directory / "installed"
        self.home.mkdir()
        installed.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(installed)
        self.python = _python(system, image, installed, self.home)
        """The command that runs Python there."""

    def name_of(self, path: Path) -> str:
        """What a file in the home directory is called there."""
        return f"{_HOME}/{path.relative_to(self.home)}"


def make_image(system: System, cache_directory: Path) -> Path:
    """The root file system with all but the project: made now, or found in the cache.

    Raises `UnavailableError` where the tools are missing, or Debian's packages cannot be had.
    """
    _check_tools(system)
    packages, wheels = _debian_packages(system), _wheels(system)
    recipe = repr((system, packages, wheels, Path(__file__).read_text()))
    image = cache_directory / f"{system.name}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    with locked(cache_directory / f"{system.name}.lock"):
        if not image.exists():
            for old in cache_directory.glob(f"{system.name}-*"):
                shutil.rmtree(old)
            unfinished = cache_directory / f"{system.name}-unfinished"
            unfinished.mkdir()
            _fill(system, packages, wheels, unfinished)
            unfinished.rename(image)
    return image


def _fill(system: System, packages: Iterable[str], wheels: Iterable[str], image: Path) -> None:
    _extract_debian(system, packages, image)
    _install_wheels(system, wheels, image)
    if system.is_32_bit:
        _compile_msgspec(system, image)
    _make_runnable(system, image)


def _python(system: System, image: Path, installed: Path, home: Path) -> tuple[str, ...]:
    mounts = (str(installed), system.local_packages, str(home), _HOME)
    return (*_isolated(), "bash", "-ec", _ENTER, str(image), system.cpu, *mounts)


def _isolated() -> tuple[str, ...]:
    """How a program gets a mount namespace of its own: what it mounts is gone when it ends."""
    who = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    return ("unshare", *who, "--mount")


def _check_tools(system: System) -> None:
    needed = ["mmdebstrap", "unshare", system.emulator, *([system.compiler] if system.is_32_bit else [])]
    if missing := [tool for tool in needed if shutil.which(tool) is None]:
        raise UnavailableError(f"not installed: {', '.join(missing)}")
    if reason := _why_not_isolated():
        raise UnavailableError(f"no mount namespace can be made: {reason}")


@cache
def _why_not_isolated() -> str:
    done = subprocess.run([*_isolated(), "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


def _debian_packages(system: System) -> tuple[str, ...]:
    return ("base-files", "libstdc++6", "python3", *(("libpython3-dev", "python3-numpy") if system.is_32_bit else ()))


def _wheels(system: System) -> tuple[str, ...]:
    """What `fedprune[agent]` needs there, at the versions that are pinned for devices, and what its tests need."""
    pinned = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", _PINNED.read_text(), re.MULTILINE))
    environment = {name: system.target.markers[name] for name in _MARKERS}
    found: dict[str, str] = {}
    wanted = [Requirement(text) for text in ("fedprune[agent]", "hypothesis", "packaging", "pytest")]
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # of those that only exist there
            found[name] = f"{name}{requirement.specifier}"
            continue
        found[name] = f"{name}=={pinned.get(name, distribution.version)}"
        for needed in map(Requirement, distribution.requires or ()):
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({**environment, "extra": e}) for e in extras):
                wanted.append(needed)
    not_wheels = {"fedprune", *(("msgspec", "numpy") if system.is_32_bit else ())}
    return tuple(sorted(found[name] for name in found.keys() - not_wheels))


def _extract_debian(system: System, packages: Iterable[str], image: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch, "root.tar")
        options = (
            "--variant=extract",
            f"--architectures={system.target.architecture}",
            f"--include={','.join(packages)}",
        )
        _fetch(
            f"Debian's packages for {system.name}",
            "mmdebstrap",
            *options,
            system.target.suite,
            archive,
            debian_archive(),
        )
        # Everything belongs to whoever unpacks it, so that they need not be root.
        _must("tar", "--extract", "--file", archive, "--directory", image, "--no-same-owner", "--exclude=./dev/*")


@cache
def debian_archive() -> str:
    """Where apt gets Debian's packages on this machine."""
    targets = ("Created-By: Packages", "Origin: Debian", "Label: Debian", "Component: main")
    done = _run("apt-get", "indextargets", "--format", "$(REPO_URI)", *targets)
    if done.returncode or not done.stdout:
        raise UnavailableError("apt has no lists of packages from Debian here")
    return done.stdout.splitlines()[0]


def _install_wheels(system: System, wheels: Iterable[str], image: Path) -> None:
    """With this machine's pip: what it would take on that platform."""
    tags = [f"--platform={platform}" for platform in system.target.platforms]
    tags += [f"--abi={abi}" for abi in (system.target.tag, "abi3", "none")]
    tags += ["--implementation=cp", f"--python-version={system.python}", "--ignore-requires-python"]
    target = f"--target={image / _SHARED_PACKAGES}"
    _pip("install", target, "--no-deps", "--no-compile", "--only-binary=:all:", *tags, *wheels)


def _compile_msgspec(system: System, image: Path) -> None:
    target = image / _SHARED_PACKAGES / "msgspec"
    with tempfile.TemporaryDirectory() as scratch:
        release = f"msgspec=={metadata.version('msgspec')}"
        _pip("download", "--no-deps", "--no-binary", "msgspec", "--dest", scratch, release)
        (source,) = Path(scratch).glob("*.tar.gz")
        _must("tar", "--extract", "--file", source, "--directory", scratch)
        (unpacked,) = Path(scratch).glob("*/PKG-INFO")
        shutil.copytree(unpacked.parent / "src" / "msgspec", target)
        about = target.with_name(f"{release.replace('==', '-')}.dist-info")
        about.mkdir()
        shutil.copy(unpacked, about / "METADATA")
    headers = image / "usr" / "include" / f"python{system.python}"
    library = target / f"_core.cpython-{system.python.replace('.', '')}-{system.triplet}.so"
    flags = (f"--sysroot={image}", "-shared", "-fPIC", "-O1", "-DNDEBUG", "-I", headers)
    _must(system.compiler, *flags, target / "_core.c", "-o", library)


def _make_runnable(system: System, image: Path) -> None:
    """What package scripts and a boot would have done, as far as Python needs it."""
    libraries = image / "usr" / "lib" / system.triplet
    for name in ("blas/libblas.so.3", "lapack/liblapack.so.3"):
        if (libraries / name).exists():
            (libraries / name).parent.with_name(Path(name).name).symlink_to(name)
    emulator = shutil.which(system.emulator)
    assert emulator is not None
    shutil.copy(emulator, image / "usr" / "bin")
    python = image / "usr" / "bin" / "python3"
    python.unlink()
    python.write_text(_START_PYTHON.format(emulator=system.emulator, python=system.python))
    python.chmod(0o755)
    for directory in (_HOME.lstrip("/"), system.local_packages, _PROCESSORS):
        (image / directory).mkdir(parents=True, exist_ok=True)
    for name in ("possible", "present"):
        (image / _PROCESSORS / name).write_text("0\n")
    with tempfile.TemporaryDirectory() as nothing:
        command = _python(system, image, Path(nothing), Path(nothing))
        _must(*command, "-c", "import click, hypothesis, msgspec, numpy, paho.mqtt.client, pytest")


def _pip(*arguments: str | Path) -> None:
    pip = (sys.executable, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check")
    _fetch("packages for Python", *pip, *arguments)


def _fetch(what: str, *command: str | Path) -> None:
    """Run what needs the network. Raises `UnavailableError` if it fails, or takes too long."""
    try:
        done = _run(*command)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{what} did not come within {PATIENCE_S:.0f} s") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith(("E: ", "ERROR: "))]
        raise UnavailableError(f"{what} cannot be had: {errors[0] if errors else done.stderr}")


def _must(*command: str | Path) -> None:
    done = _run(*command)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}"


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
