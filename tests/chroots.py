"""Debian in a directory, with dpkg and its scripts at work: for this machine's processor, or emulated for another.

A program runs in a mount namespace of its own, in the directory as its root. For another processor the kernel hands its
programs to QEMU, by a binfmt_misc of a user namespace's own (Linux 6.7 or newer), so that nothing of this machine's is
changed. Only root can give files to other users. `python -m tests.chroots ROOT MACHINE COMMAND` is such a program.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.emulation import UnavailableError, debian_archive
from tests.processes import Child
from tests.shared import locked

_BINFMT = "/proc/sys/fs/binfmt_misc"
_NEW_NAMESPACES = 0x10000000 | 0x00020000
"""CLONE_NEWUSER and CLONE_NEWNS of unshare(2)."""
_IDENTITY = "0 0 65536\n"
NATIVE = "native"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CPUS = {"aarch64": "cortex-a53", "arm": "cortex-a7"}

_ENTER = """
mount --make-rprivate /
for shared in dev proc; do mount --rbind "/$shared" "$0/$shared"; done
exec chroot "$0" "$@"
"""

_BOOKKEEPING = (
    "./proc",
    "./dev",
    "./sys",
    "./srv",
    "./run",
    "./var/log",
    "./var/lib/dpkg",
    "./var/cache",
    "./etc/passwd-",
    "./etc/group-",
    "./etc/shadow-",
    "./etc/gshadow-",
)
"""What package managers write down of what they did, and passwd's copies of what was before."""


@dataclass(frozen=True)
class Chroot:
    """A system in a directory. `name` is its release and architecture, `machine` whose programs it has."""

    root: Path
    name: str
    machine: str

    def command(self, *command: str) -> tuple[str, ...]:
        """What runs a command there, as the process that is started."""
        return (sys.executable, "-m", "tests.chroots", str(self.root), self.machine, *command)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done

    def service(self, unit: str) -> Child:
        """The process that a unit's ExecStart is, as its user: what systemd starts, without its fences."""
        text = (self.root / "usr/lib/systemd/system" / unit).read_text()
        said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#")
        directory = said.get("WorkingDirectory", "/")
        start = ("sh", "-c", 'cd "$0" && exec "$@"', directory, *said["ExecStart"].split())
        return Child(*start, by=self.command(*_become(said["User"])))

    def put(self, *files: Path) -> list[str]:
        """Copy files there; their names there."""
        for file in files:
            shutil.copy(file, self.root / "srv")
        return [f"/srv/{file.name}" for file in files]

    def snapshot(self) -> set[str]:
        """Each file with its kind, mode, owner and content; not what package managers write down."""
        found = set()
        for path in self.root.rglob("*"):
            name = f"./{path.relative_to(self.root)}"
            if name.startswith(_BOOKKEEPING):
                continue
            about = path.lstat()
            what = os.readlink(path) if path.is_symlink() else ""
            if path.is_file() and not path.is_symlink():
                what = hashlib.sha256(path.read_bytes()).hexdigest()
            found.add(f"{name} {about.st_mode:o} {about.st_uid}:{about.st_gid} {what}")
        return found


def _become(user: str) -> tuple[str, ...]:
    """What makes the same process another user's: a signal is to reach the program itself."""
    return ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups")


def make_chroot(name: str, machine: str, packages: tuple[str, ...], directory: Path, cache: Path) -> Chroot:
    """Unpack a system of Debian's packages, which is made once and kept in the cache.

    Raises `UnavailableError` where this machine cannot have it.
    """
    suite, architecture = name.split("-")
    _check(machine)
    archive = cache / f"{name}-{hashlib.sha256(repr(packages).encode()).hexdigest()[:12]}.tar"
    with locked(archive.with_suffix(".lock")):
        if not archive.exists():
            draft = archive.with_suffix(".draft.tar")
            options = ["--variant=minbase", f"--architectures={architecture}", f"--include={','.join(packages)}"]
            options += ["--mode=root", "--quiet", "--skip=check/qemu,chroot/mount,setup/mknod"]
            make = ["mmdebstrap", *options, suite, str(draft), debian_archive()]
            done = subprocess.run(
                [sys.executable, "-m", "tests.chroots", "/", machine, *make],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise UnavailableError(f"Debian's packages for {name} cannot be had: {done.stderr[-500:]}")
            draft.rename(archive)
    directory.mkdir()
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", directory, "--exclude=./dev/*"], check=True)
    processors = directory / "sys/devices/system/cpu"
    processors.mkdir(parents=True)
    for which in ("possible", "present"):
        (processors / which).write_text("0\n")  # without their number LiteRT leaves XNNPACK out
    return Chroot(directory, name, machine)


def _check(machine: str) -> None:
    if os.geteuid() != 0:
        raise UnavailableError("only root can give files to other users")
    needed = ("mmdebstrap", "dpkg-deb", *(() if machine == NATIVE else (f"qemu-{machine}-static",)))
    if missing := [tool for tool in needed if shutil.which(tool) is None]:
        raise UnavailableError(f"not installed: {', '.join(missing)}")
    done = subprocess.run(
        [sys.executable, "-m", "tests.chroots", "/", machine, "true"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UnavailableError(f"no namespace for {machine} can be made: {done.stderr.strip()[-300:]}")


def _enter_user_namespace() -> None:
    """Become root of a user namespace with the same users. Who is outside has to say so, and is asked to."""
    (told, tell), (mapped, map_) = os.pipe(), os.pipe()
    outside = os.fork()
    if outside == 0:
        os.read(told, 1)
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{os.getppid()}/{kind}").write_text(_IDENTITY)
        os.write(map_, b"m")
        os._exit(0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NAMESPACES) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    os.write(tell, b"t")
    os.read(mapped, 1)
    os.waitpid(outside, 0)


def _emulate(machine: str) -> None:
    """Have programs of `machine` run by QEMU in this user namespace."""
    subprocess.run(["mount", "-t", "binfmt_misc", "none", _BINFMT], check=True)
    Path(_BINFMT, "register").write_bytes(Path(f"/usr/lib/binfmt.d/qemu-{machine}.conf").read_bytes().strip())
    os.environ["QEMU_CPU"] = _CPUS[machine]


def main(root: str, machine: str, *command: str) -> None:
    """Become `command` in `root`."""
    if machine != NATIVE:
        _enter_user_namespace()
        _emulate(machine)
    kept = {"PATH": _PATH, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", "HOME": "/"}
    kept |= {name: value for name, value in os.environ.items() if name in ("QEMU_CPU", "NOTIFY_SOCKET", "http_proxy")}
    if root == "/":
        os.execvpe(command[0], list(command), kept)
    os.execvpe("unshare", ["unshare", "--mount", "bash", "-ec", _ENTER, root, *command], kept)


if __name__ == "__main__":
    main(*sys.argv[1:])
