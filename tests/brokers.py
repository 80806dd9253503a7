"""Real brokers for tests: Mosquitto with any configuration, on a free port of loopback, ended by its process id."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import pytest
from paho.mqtt.publish import single

from tests.patience import PATIENCE_S

_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
EXECUTABLE = shutil.which("mosquitto", path=_PATH)
MISSING = "" if EXECUTABLE else "Mosquitto is not installed"
"""Why tests that need Mosquitto are skipped; empty if they are not."""

OPEN = ("allow_anonymous true",)


class Mosquitto:
    """A broker. It may be killed and started again: the port stays, what it knew is lost.

    Without `has_listener` its configuration has no listener line, as that which comes with a distribution.
    """

    def __init__(self, directory: Path, *settings: str, has_listener: bool = True) -> None:
        self.port = free_port()
        self._listener = (f"listener {self.port} 127.0.0.1",) if has_listener else ()
        self._settings = settings or OPEN
        self._config = directory / "mosquitto.conf"
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def __enter__(self) -> Mosquitto:
        self.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    def start(self, *settings: str) -> None:
        """Start, and return when it listens; `settings` are instead of those that it was made with."""
        assert EXECUTABLE is not None
        assert self._process is None
        # Without a user of its own, Mosquitto started by root could not read the tests' files.
        head = (f"user {getpass.getuser()}", *self._listener, "persistence false")
        self._config.write_text("\n".join((*head, *(settings or self._settings))) + "\n")
        self._process = subprocess.Popen(
            [EXECUTABLE, "-c", str(self._config), "-p", str(self.port)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            said.append(line)
            if "running" in line:
                break
        else:
            raise AssertionError(f"Mosquitto did not start: {''.join(said)}")

    @contextmanager
    def held_up(self) -> Iterator[None]:
        """Meanwhile the broker does not move, unless it is killed."""
        held = self._process
        assert held is not None
        held.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            held.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kill it: it forgets a SIGTERM that comes after it says that it runs and before it looks for one."""
        if self._process is not None:
            self._process.kill()
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._process.wait(PATIENCE_S)
            self._process = None


def publish_anything(broker: Mosquitto, topic: str, payload: bytes, *, retain: bool = False) -> None:
    """Publish what no link of ours would, as somebody else may: until the broker has it."""
    single(topic, payload, qos=1, retain=retain, hostname="127.0.0.1", port=broker.port)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_password_file(path: Path, user: str, password: str) -> None:
    tool = shutil.which("mosquitto_passwd", path=_PATH)
    assert tool is not None
    subprocess.run([tool, "-b", "-c", str(path), user, password], check=True, capture_output=True)


def allowing_subscriptions() -> tuple[str, bytes]:
    """Topic and payload of a message that makes a broker with `settings_without_subscriptions` allow them."""
    command = {"command": "setDefaultACLAccess", "acls": [{"acltype": "subscribe", "allow": True}]}
    return "$CONTROL/dynamic-security/v1", json.dumps({"commands": [command]}).encode()


def settings_without_subscriptions(directory: Path) -> tuple[str, ...]:
    """Settings that let everybody in but allow no subscription. Skips the test where the plugin is not installed."""
    plugin = next(Path("/usr").glob("lib*/**/mosquitto_dynamic_security.so"), None)
    if plugin is None:
        pytest.skip("Mosquitto's dynamic security plugin is not installed")
    rights = {"publishClientSend": True, "publishClientReceive": True, "subscribe": False, "unsubscribe": True}
    owner = {"acltype": "publishClientSend", "topic": "$CONTROL/dynamic-security/#", "priority": 0, "allow": True}
    whole = {
        "defaultACLAccess": rights,
        "clients": [],
        "groups": [{"groupname": "all", "roles": [{"rolename": "owner"}], "clients": []}],
        "roles": [{"rolename": "owner", "acls": [owner]}],
        "anonymousGroup": "all",
    }
    (directory / "rights.json").write_text(json.dumps(whole))
    return (*OPEN, f"plugin {plugin}", f"plugin_opt_config_file {directory / 'rights.json'}")
