"""The Debian packages, installed by dpkg: from two commands on each side to the first update, and back to nothing.

systemd is not the first process there: what a unit would start is started as its user.
"""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.booted import Booted
from tests.brokers import free_port
from tests.chroots import NATIVE, Chroot, make_chroot
from tests.emulation import UnavailableError
from tests.packages import AGENT, GATEWAY, built, install, version_of
from tests.processes import Child

pytestmark = pytest.mark.slow

_PACKAGES = ("python3", "adduser", "mosquitto")
_SYSTEMS = {"bookworm-amd64": NATIVE, "bookworm-arm64": "aarch64", "trixie-amd64": NATIVE}
_USUAL = ("bookworm-amd64", "bookworm-arm64")
_STATE = f"var/lib/{AGENT}"

_KILLED_ONCE = """\
if [ ! -e /srv/killed ]; then
    touch /srv/killed
    kill -9 $PPID
    sleep 60
fi
"""


@pytest.fixture(params=_USUAL)
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Chroot:
    cache = Path(request.config.cache.mkdir("chroots"))
    try:
        return make_chroot(request.param, _SYSTEMS[request.param], _PACKAGES, tmp_path / "root", cache)
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def packages(system: Chroot, request: pytest.FixtureRequest) -> dict[str, Path]:
    return built(system.name, Path(request.config.cache.mkdir("deb")))


def is_installed(system: Chroot) -> bool:
    said = system.run("dpkg-query", "--show", "--showformat", "${Status}", AGENT, check=False).stdout
    return said == "install ok installed"


@pytest.fixture
def served(system: Chroot, packages: dict[str, Path]) -> Iterator[tuple[Child, Child, str]]:
    """A gateway's two services after its two commands, and the line that these printed for the first device."""
    install(system, packages[GATEWAY])
    ports = ("--broker-port", str(free_port()), "--enrolment-port", str(free_port()))
    task = "/usr/share/fedprune-gateway/digits.fedtask"
    said = system.run("fedprune", "gateway", "init", "127.0.0.1", "--task", task, *ports).stdout
    with system.service("fedprune-broker.service") as broker:
        broker.says("running")
        with system.service("fedprune-gateway.service") as gateway:
            gateway.says("federation 1: digits")
            yield broker, gateway, said.splitlines()[-1]


@pytest.mark.parametrize("system", _SYSTEMS, indirect=True)
def test_two_commands_on_each_side_make_the_first_update_and_purging_leaves_nothing(
    system: Chroot, packages: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = system.snapshot()
    broker, gateway, line = request.getfixturevalue("served")
    install(system, packages[AGENT])
    system.run(*line.split())
    keys = [path for path in (system.root / _STATE).iterdir() if path.suffix == ".key"]
    owner = (system.root / _STATE).stat().st_uid
    assert keys
    assert {(path.stat().st_uid, path.stat().st_mode & 0o777) for path in keys} == {(owner, 0o600)}
    with system.service("fedprune-agent.service") as agent:
        gateway.says("federation 1, round  1/20: 1 agents", "stdout")
        agent.interrupt(signal.SIGTERM)
        assert agent.ends() == 0
    for service in (gateway, broker):
        service.interrupt(signal.SIGTERM)
        assert service.ends() == 0
    for name in (AGENT, GATEWAY):
        bill = json.loads((system.root / f"usr/share/doc/{name}/bill-of-materials.cdx.json").read_text())
        assert {"numpy", "msgspec", "cryptography"} <= {part["name"] for part in bill["components"]}
    assert not list(system.root.glob("usr/lib/fedprune-*/lib/python*/site-packages/tensorflow*"))
    configured = system.root / "etc/fedprune/agent.toml"
    configured.write_text(configured.read_text() + "threads = 2\n")
    newer = version_of(packages[AGENT], lambda _: None, tmp_path)
    memory = (system.root / _STATE / "agent-state" / "agent.json").read_bytes()
    install(system, newer)
    assert configured.read_text().endswith("threads = 2\n")
    assert (system.root / _STATE / "agent-state" / "agent.json").read_bytes() == memory
    system.run("dpkg", "--purge", AGENT, GATEWAY)
    assert system.snapshot() - before == set()
    assert before - system.snapshot() == set()


def test_an_upgrade_that_is_interrupted_is_repaired(system: Chroot, packages: dict[str, Path], tmp_path: Path) -> None:
    install(system, packages[AGENT])
    (system.root / _STATE / "kept").touch()

    def die(script: str) -> Callable[[Path], None]:
        def change(unpacked: Path) -> None:
            path = unpacked / "DEBIAN" / script
            head, _, rest = path.read_text().partition("set -e\n")
            path.write_text(f"{head}set -e\n{_KILLED_ONCE}{rest}")

        return change

    configuring = version_of(packages[AGENT], die("postinst"), tmp_path, "2.0-1")
    assert install(system, configuring, check=False).returncode != 0
    assert not is_installed(system)
    system.run("dpkg", "--configure", "-a")
    assert is_installed(system)
    # While files are exchanged, dpkg itself asks for the package once more.
    (system.root / "srv" / "killed").unlink()
    prerm = system.root / f"var/lib/dpkg/info/{AGENT}.prerm"
    prerm.write_text(prerm.read_text().replace("set -e\n", f"set -e\n{_KILLED_ONCE}"))
    again = version_of(packages[AGENT], lambda _: None, tmp_path, "3.0-1")
    assert install(system, again, check=False).returncode != 0
    system.run("dpkg", "--configure", "-a", check=False)
    install(system, again)
    assert is_installed(system)
    assert (system.root / _STATE / "kept").exists()
    assert system.run("fedprune", "--version").stdout.startswith("fedprune, version")


def test_an_older_version_refuses_the_state_of_a_newer_one_and_changes_nothing(
    system: Chroot, packages: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    broker, gateway, line = request.getfixturevalue("served")
    install(system, packages[AGENT])
    system.run(*line.split())
    with system.service("fedprune-agent.service") as agent:
        agent.says("round 2")
        agent.interrupt(signal.SIGTERM)
    for service in (gateway, broker):
        service.interrupt(signal.SIGTERM)
    record = system.root / _STATE / "agent-state" / "agent.json"
    said = json.loads(record.read_text())
    said["format"] += 1
    record.write_text(json.dumps(said))
    book = system.root / "var/lib/fedprune-gateway/queue/0001/run/book.sqlite"
    with closing(sqlite3.connect(book)) as connection:
        (written,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {written + 1}")
    states = [system.root / "var/lib" / name for name in (AGENT, GATEWAY)]
    kept = [_contents(state) for state in states]
    for name in (AGENT, GATEWAY):
        install(system, version_of(packages[name], lambda _: None, tmp_path / name, "0.0.1-1"))
    refusals = {
        "fedprune-agent.service": "this state directory was written by another version of fedprune",
        "fedprune-gateway.service": f"the book: format {written + 1}, this fedprune reads {written}; go on with",
    }
    for unit, refusal in refusals.items():
        with system.service(unit) as process:
            assert process.ends() == 7
            assert refusal in process.stderr
    found = [_contents(state) for state in states]
    changed = {name for old, new in zip(kept, found, strict=True) for name, _ in old.items() ^ new.items()}
    assert changed == set()


def _contents(directory: Path) -> dict[str, bytes]:
    """Each file below; not those with a dot, which a start writes or clears away: who owns a directory, and drafts."""
    files = (path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path): path.read_bytes() for path in files}


def test_under_systemd_they_begin_by_themselves_are_watched_and_stop_at_once(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    cache = Path(request.config.cache.mkdir("chroots"))
    packages = (*_PACKAGES, "systemd", "systemd-sysv")
    name = "bookworm-amd64"
    try:
        system = make_chroot(name, NATIVE, packages, tmp_path / "root", cache)
        debs = system.put(*built(name, Path(request.config.cache.mkdir("deb"))).values())
        with Booted(system) as booted:
            _use(booted, debs)
    except UnavailableError as error:
        pytest.skip(str(error))


def _use(booted: Booted, debs: list[str]) -> None:
    booted.run("dpkg", "--install", *debs)
    ports = ("--broker-port", str(free_port()), "--enrolment-port", str(free_port()))
    task = "/usr/share/fedprune-gateway/digits.fedtask"
    line = booted.run("fedprune", "gateway", "init", "127.0.0.1", "--task", task, *ports).stdout.splitlines()[-1]
    booted.until("fedprune-gateway.service", "ActiveState", "active")
    booted.run(*line.split())
    booted.until("fedprune-agent.service", "ActiveState", "active")
    booted.until("fedprune-gateway.service", "StatusText", "no federation is waiting")  # that one is done
    assert booted.run("fedprune", "revoke", "pi-1").stdout == "pi-1 is revoked; it is off the broker\n"
    booted.run("fedprune", "gateway", "queue", "add", "--task", task)
    booted.run(*booted.run("fedprune", "enroll", "pi-1").stdout.split())
    booted.until("fedprune-gateway.service", "StatusText", "federation 2, round")  # it is back, by another key
    booted.until("fedprune-gateway.service", "StatusText", "no federation is waiting")
    impatient = "/run/systemd/system/fedprune-agent.service.d"
    change = f"mkdir -p {impatient} && printf '[Service]\nWatchdogSec=5s\nRestartSec=1s\n' > {impatient}/test.conf"
    booted.run("sh", "-c", f"{change} && systemctl daemon-reload && systemctl restart fedprune-agent")
    booted.run("sh", "-c", f"kill -STOP {booted.unit('fedprune-agent.service', 'MainPID')}")
    booted.until("fedprune-agent.service", "NRestarts", "1")
    booted.until("fedprune-agent.service", "ActiveState", "active")
    units = ("fedprune-agent.service", "fedprune-gateway.service", "fedprune-broker.service")
    booted.run("systemctl", "stop", *units)
    for unit in units:
        assert (booted.unit(unit, "ActiveState"), booted.unit(unit, "Result")) == ("inactive", "success")
        assert booted.unit(unit, "ExecMainStatus") == "0"
