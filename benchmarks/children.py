"""Child processes: started in sessions of their own, logged to files, and all ended in the end, with their children."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from fedprune.errors import BrokerError, FedpruneError

_FEDPRUNE = (sys.executable, "-P", "-m", "fedprune.command")
"""-P: what lies in the directory that somebody works in is not imported."""
_PATIENCE_S = 5.0
_LISTENING_S = 120.0
"""RabbitMQ takes half a minute on a busy machine."""


class ChildFailedError(FedpruneError):
    """A child process failed: its own last line and exit code, or the signal that ended it."""

    def __init__(self, name: str, exit_code: int, log: Path) -> None:
        super().__init__(f"{name}: {_reason(exit_code, log)}")
        self.exit_code = exit_code if exit_code > 0 else FedpruneError.exit_code


class Children:
    """Starts child processes; leaving the context ends those that are left, gently at first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._logs = directory / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._running: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop(*self._running)

    def start(self, name: str, *arguments: str, piped: bool = False) -> subprocess.Popen[str]:
        """Start `fedprune ARGUMENTS`; what it says goes to logs/NAME.log, but its standard output to a pipe if `piped`.

        Whoever has it piped must read it, or the child waits for ever when the pipe is full.
        """
        return self.start_command(name, (*_FEDPRUNE, *arguments), piped=piped)

    def start_command(
        self, name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None, *, piped: bool = False
    ) -> subprocess.Popen[str]:
        """Start any other command, with `env` added to its environment."""
        with self.log(name).open("w") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else log,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the parent, which ends its children in order
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            )
        self._running[name] = child
        return child

    def run(self, name: str, *arguments: str) -> None:
        """Run `fedprune ARGUMENTS` to its end. Raises `ChildFailedError`."""
        self.run_command(name, (*_FEDPRUNE, *arguments))

    def run_command(self, name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
        """Run any other command to its end. Raises `ChildFailedError`."""
        child = self.start_command(name, command, env)
        child.communicate()
        self._finish(name, child)

    def wait(self, name: str) -> None:
        """Wait for a child that should end by itself. Raises `ChildFailedError`."""
        child = self._running[name]
        child.wait()
        self._finish(name, child)

    def check(self, *, except_for: str = "") -> None:
        """Raise `ChildFailedError` if a child ended that should be running; `except_for` names one that may end."""
        for name, child in self._running.items():
            if name != except_for and child.poll() is not None:
                raise ChildFailedError(name, child.returncode, self.log(name))

    def stop(self, *names: str) -> None:
        """End children: SIGTERM, and after a while SIGKILL, which is also for what they left running."""
        stopped = [self._running.pop(name) for name in names]
        for child in stopped:
            child.terminate()
        deadline = time.monotonic() + _PATIENCE_S
        for child in stopped:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)

    def kill(self, name: str) -> None:
        """End a child at once, as a power cut does."""
        child = self._running.pop(name)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def start_broker(self, choice: str) -> str:
        """Start the broker that `choice` asks for, on a free port of loopback; its address."""
        if "://" in choice:
            return choice
        port = free_port()
        if choice == "mosquitto":
            configuration = self._directory / "mosquitto.conf"
            configuration.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
            self.start_command("broker", (find_mosquitto() or "mosquitto", "-c", str(configuration)))
        else:
            self.start("broker", "broker", "--port", str(port))
        self.await_port("broker", port)
        return f"mqtt://127.0.0.1:{port}"

    def _finish(self, name: str, child: subprocess.Popen[str]) -> None:
        del self._running[name]
        if child.returncode:
            raise ChildFailedError(name, child.returncode, self.log(name))

    def await_port(self, name: str, port: int) -> None:
        """Return when the child `name` listens on a port of loopback. Raises `BrokerError` if it does not in time."""
        deadline = time.monotonic() + _LISTENING_S
        while True:
            self.check()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise BrokerError(f"{name} does not answer on port {port}; see {self.log(name)}") from error
                time.sleep(0.05)


def _reason(exit_code: int, log: Path) -> str:
    if exit_code < 0:
        return f"ended by signal {-exit_code} ({signal.strsignal(-exit_code)}); its messages are in {log}"
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1].removeprefix("fedprune: ") if lines else f"see {log}"


def find_mosquitto() -> str | None:
    """Mosquitto's path; Debian puts it where a user's PATH does not look."""
    return shutil.which("mosquitto", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))


def default_broker() -> str:
    """The broker to take where nobody asks for one: mosquitto if it is installed, else the embedded one."""
    return "mosquitto" if find_mosquitto() else "embedded"


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
