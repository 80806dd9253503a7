"""A system that is booted: systemd as the first process of namespaces of its own, with a directory as its root.

Network and kernel are this machine's; processes, mounts and control groups are its own, and end with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType

from tests.chroots import Chroot
from tests.emulation import UnavailableError
from tests.patience import PATIENCE_S

_CGROUPS = Path("/sys/fs/cgroup")
_CONTROLLERS = ("systemd", "memory", "cpu")
"""The hierarchies of cgroup v1 that it gets."""

_LOOK_S = 0.2
_UP = ("running", "degraded")

_BOOT = """
mount --make-rprivate /
mount --bind "$0" "$0"
cd "$0"
mkdir -p mnt
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs dev
for node in null zero random urandom full tty; do touch dev/$node; mount --bind /dev/$node dev/$node; done
mkdir -p dev/pts dev/shm dev/mqueue dev/hugepages
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
touch dev/console
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs tmpfs sys/fs/cgroup
    mkdir sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
    for kind in memory cpu; do mkdir sys/fs/cgroup/$kind; mount -t cgroup -o $kind cgroup sys/fs/cgroup/$kind; done
fi
pivot_root . mnt
umount --lazy /mnt
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --show-status=no
"""


class Booted:
    """A system of which systemd is the first process. Raises `UnavailableError` where this machine cannot have that."""

    def __init__(self, system: Chroot) -> None:
        self._system = system
        kinds = _CONTROLLERS if (_CGROUPS / "systemd").is_dir() else ("",)
        self._groups = [_CGROUPS / kind / f"fedprune-{os.getpid()}" for kind in kinds]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Booted:
        if shutil.which("nsenter") is None:
            raise UnavailableError("nsenter is not installed")
        try:
            for group in self._groups:
                group.mkdir(exist_ok=True)
        except OSError as error:
            raise UnavailableError(f"no control groups can be made: {error}") from error
        options = ("--cgroup", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child")
        joining = "".join(f"echo $$ > {group}/cgroup.procs; " for group in self._groups)
        start = f'{joining} exec unshare {" ".join(options)} bash -ec "$1" "$0"'
        self._process = subprocess.Popen(
            ["bash", "-ec", start, str(self._system.root), _BOOT], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + PATIENCE_S
        while self.run("systemctl", "is-system-running", check=False).stdout.strip() not in _UP:
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.__exit__(None, None, None)
                raise UnavailableError("systemd does not come up as the first process of a namespace here")
            time.sleep(_LOOK_S)  # nothing outside hears that it is up
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        for group in self._groups:
            for inner in sorted(group.rglob("*"), reverse=True):
                if inner.is_dir():
                    _remove(inner)
            _remove(group)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        first = self._first_process()
        enter = ("nsenter", "--target", first, "--mount", "--pid", "--uts", "--ipc", "--cgroup")
        clean = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "LC_ALL=C.UTF-8")
        done = subprocess.run(
            [*enter, *clean, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done

    def unit(self, name: str, what: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "--property", what, name).stdout.strip()

    def until(self, name: str, what: str, value: str) -> None:
        """Wait until a unit's property contains that."""
        deadline = time.monotonic() + PATIENCE_S
        while value not in (found := self.unit(name, what)):
            assert time.monotonic() < deadline, f"{name}: {what} is {found!r} and not {value!r}"
            time.sleep(_LOOK_S)

    def _first_process(self) -> str:
        """Its number outside; 0, which nobody can enter, while there is none."""
        assert self._process is not None
        try:
            pid = self._process.pid
            return (Path(f"/proc/{pid}/task/{pid}/children").read_text().split() or ["0"])[0]
        except OSError:
            return "0"


def _remove(group: Path) -> None:
    """The kernel needs a moment until the processes of a group are gone."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            group.rmdir()
        except OSError:
            time.sleep(_LOOK_S)
        else:
            return
