"""One .deb: its files, its control data, and the file that `dpkg-deb` makes of them."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from deploy.debian.armhf import FROM_DEBIAN
from deploy.debian.bill import bill_of_materials, bundled, copyright_file, licence_texts
from deploy.debian.environment import make_environment
from deploy.debian.scripts import maintainer_scripts
from deploy.debian.targets import Target
from deploy.debian.units import put_units

_HERE = Path(__file__).parent
_REPOSITORY = _HERE.parents[1]
_MAINTAINER = "fedprune maintainers <fedprune@localhost>"
_DOCUMENTS = ("INSTALL.md", "SETTINGS.md", "DATA.md", "SECURITY.md")
_KIB = 1024

_CONTROL = """\
Package: {name}
Version: {version}
Architecture: {architecture}
Maintainer: {maintainer}
Installed-Size: {kib}
Depends: {depends}
Section: science
Priority: optional
Description: {summary}
{description}
"""


@dataclass(frozen=True)
class Package:
    """What is in a package. `directory` holds its units and its configuration files."""

    name: str
    directory: str
    locks: tuple[str, ...]
    units: tuple[str, ...]
    """Those that are started at boot."""
    rank: int
    depends: tuple[str, ...]
    summary: str
    description: str
    defaults: dict[str, str]
    """Variables of the environment that its command has."""


AGENT = Package(
    name="fedprune-agent",
    directory="agent",
    locks=("debian-agent.txt",),
    units=("fedprune-agent.path", "fedprune-agent.service"),
    rank=10,
    depends=(),
    summary="federated learning with pruning: the device's agent",
    description=" It trains a small model on this device's own data, which never leave it, for a federation whose\n"
    " gateway it has joined. It needs no TensorFlow.",
    defaults={
        "FEDPRUNE_AGENT_DIR": "/var/lib/fedprune-agent",
        "FEDPRUNE_DATA": "/usr/share/fedprune-agent/digits.npz",
        "FEDPRUNE_DOCTOR": "/etc/fedprune/agent.toml",
    },
)

GATEWAY = Package(
    name="fedprune-gateway",
    directory="gateway",
    locks=("aggregator.txt",),
    units=("fedprune-gateway.path", "fedprune-broker.service", "fedprune-gateway.service"),
    rank=20,
    depends=("mosquitto (>= 2.0)",),
    summary="federated learning with pruning: the gateway",
    description=" It runs federations of devices that have joined it, over a Mosquitto of its own, and lets new\n"
    " devices in. It needs no TensorFlow.",
    defaults={
        "FEDPRUNE_GATEWAY_DIR": "/var/lib/fedprune-gateway",
        "FEDPRUNE_FEDERATION": "/etc/fedprune/federation.toml",
        # A machine may be both: then this package's command is the one that is found.
        **AGENT.defaults,
        "FEDPRUNE_DOCTOR": "/var/lib/fedprune-gateway",
    },
)


@dataclass(frozen=True)
class Built:
    """A finished package, and how large it is."""

    path: Path
    installed_bytes: int

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size


def build(
    package: Package,
    target: Target,
    version: str,
    wheel: Path,
    shared: Path,
    scratch: Path,
    out: Path,
    compression: str,
) -> Built:
    """Make the .deb. `shared` has the files of /usr/share/NAME."""
    root = scratch / f"{package.name}-{target.name}"
    shutil.rmtree(root, ignore_errors=True)
    prefix = f"/usr/lib/{package.name}"
    locks = [_REPOSITORY / "requirements" / name for name in package.locks]
    site = make_environment(target, locks, wheel, prefix, root, package.defaults)
    put_units(_HERE / package.directory, target, root)
    _put_configuration(package, root)
    shutil.copytree(shared, root / "usr" / "share" / package.name)
    full = f"{version}-1~deb{target.release}"
    _put_documents(package, full, site, root)
    installed = sum(path.lstat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    _put_control(package, target, full, installed, root)
    subprocess.run(["chmod", "-R", "u=rwX,go=rX", root], check=True)
    path = out / f"{package.name}_{full}_{target.architecture}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", f"-Z{compression}", "--build", root, path], check=True, capture_output=True
    )
    shutil.rmtree(root)
    return Built(path, installed)


def _put_configuration(package: Package, root: Path) -> None:
    etc = root / "etc" / "fedprune"
    etc.mkdir(parents=True)
    for path in sorted((_HERE / package.directory).glob("*.toml")):
        shutil.copy(path, etc)


def _put_documents(package: Package, version: str, site: Path, root: Path) -> None:
    documents = root / "usr" / "share" / "doc" / package.name
    documents.mkdir(parents=True)
    for name in _DOCUMENTS:
        shutil.copy(_REPOSITORY / "docs" / name, documents)
    changes = gzip.compress((_REPOSITORY / "CHANGELOG.md").read_bytes(), mtime=0)
    (documents / "changelog.gz").write_bytes(changes)
    distributions = bundled(site)
    (documents / "bill-of-materials.cdx.json").write_text(bill_of_materials(package.name, version, distributions))
    (documents / "copyright").write_text(copyright_file(distributions))
    for distribution in distributions:
        directory = documents / "licences" / distribution.metadata["Name"]
        for number, text in enumerate(licence_texts(distribution)):
            directory.mkdir(parents=True, exist_ok=True)
            target = directory / text.name
            shutil.copy(text, target.with_name(f"{number}-{text.name}") if target.exists() else target)


def _put_control(package: Package, target: Target, version: str, installed: int, root: Path) -> None:
    control = root / "DEBIAN"
    depends = [
        f"python3 (>= {target.python})",
        f"python3 (<< {target.next_python})",
        f"libc6 (>= 2.{target.glibc})",
        "libstdc++6",
        "adduser",
        "init-system-helpers (>= 1.52)",
        *(FROM_DEBIAN.values() if target.is_32_bit else ()),
        *package.depends,
    ]
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    control.mkdir()
    (control / "control").write_text(
        _CONTROL.format(
            name=package.name,
            version=version,
            architecture=target.architecture,
            maintainer=_MAINTAINER,
            kib=-(-installed // _KIB),
            depends=", ".join(depends),
            summary=package.summary,
            description=package.description,
        )
    )
    names = [path.relative_to(root) for path in files]
    (control / "conffiles").write_text("".join(f"/{name}\n" for name in names if name.parts[0] == "etc"))
    sums = (f"{hashlib.md5(path.read_bytes()).hexdigest()}  {name}\n" for path, name in zip(files, names, strict=True))
    (control / "md5sums").write_text("".join(sums))
    for name, text in maintainer_scripts(package.name, package.units, package.rank).items():
        (control / name).write_text(text)
        (control / name).chmod(0o755)
