"""Commands in forks of a process that has loaded already what they import; and so do they start commands of theirs.

Loading TensorFlow takes five seconds of a processor, which `init`, `simulate` and `export` each spend; what other
commands import takes half a second. Here a process loads it once; where `python -m MODULE` would be started, a fork
runs that module, with its own arguments, directory, environment, streams and session. Nothing else is different.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import logging
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from tests.patience import PATIENCE_S

TENSORFLOW = ("fedprune.keras.stack",)
"""What commands import that build, convert or train with it."""
OTHERS = (
    "aggregator.command",
    "aggregator.gateway.command",
    "aggregator.rollback_command",
    "edge_agent.command",
    "edge_agent.consent_command",
    "export.command",
    "fedprune.data.command",
    "fedprune.doctor.command",
    "fedprune.identity.device_commands",
    "fedprune.prediction.command",
)
"""What all others import: none of it is TensorFlow, whose libraries would be in the memory of each."""

_MOST_BYTES = 2**17
"""Of a request: arguments and environment."""

_FIRST_OTHER = 3
"""The first file descriptor that is no standard stream."""

_AT_START = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGPIPE: signal.SIG_IGN,
    signal.SIGTERM: signal.SIG_DFL,
}
"""What Python does with signals when it starts."""

_ROOT = Path(__file__).parents[1]


class Forked:
    """A process that was forked, with what `subprocess.Popen` has to say of one. `told` is the pipe by which its parent
    tells first its number, then its exit code."""

    def __init__(self, told: int) -> None:
        self._told = os.fdopen(told, "rb", buffering=0)
        self._code: int | None = None
        self.pid = int(self._told.readline())

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._ended(0.0)

    def wait(self, timeout: float) -> int:
        """The exit code, once it has ended. Raises `subprocess.TimeoutExpired`."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float) -> int | None:
        if self._code is None and select.select([self._told], [], [], timeout)[0]:
            self._code = int(self._told.readline())
            self._told.close()
        return self._code


class Preloaded:
    """A process that forks, and ends with this one."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.preloaded", str(theirs.fileno()), *modules],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=_ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        atexit.register(process.wait)
        atexit.register(self._requests.shutdown, socket.SHUT_RDWR)

    def start(
        self, module: str, *arguments: str, env: Mapping[str, str], output: int, errors: int, directory: Path
    ) -> Forked:
        """`python -m MODULE ARGUMENTS` in a directory, with two descriptors as its streams."""
        reader, writer = os.pipe()
        request = json.dumps([str(directory), dict(env), module, *arguments]).encode()
        try:
            socket.send_fds(self._requests, [request], [output, errors, writer])
        finally:
            os.close(writer)
        return Forked(reader)

    def run(self, module: str, *arguments: str, directory: Path) -> tuple[int, str, str]:
        """`python -m MODULE ARGUMENTS` in a directory: its exit code, and what it wrote to both its streams."""
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            streams = {"output": output.fileno(), "errors": errors.fileno()}
            process = self.start(module, *arguments, env=os.environ, directory=directory, **streams)
            try:
                code = process.wait(PATIENCE_S)
            finally:
                process.kill()
            for stream in (output, errors):
                stream.seek(0)
            return code, output.read(), errors.read()


@cache
def preloaded(modules: tuple[str, ...]) -> Preloaded:
    """The one of this process, which is started when it is first asked for."""
    return Preloaded(modules)


class _Forking(subprocess.Popen[Any]):
    """Starts what is `python -m MODULE` as a fork; anything else as ever."""

    def __init__(self, args: Sequence[str | Path], **options: Any) -> None:
        words = [str(word) for word in args]
        if words[0] == sys.executable and "-m" in words:
            kept = options.get("pass_fds", ())
            options["preexec_fn"] = partial(_become, words[words.index("-m") + 1 :], options.get("env"), kept)
        super().__init__(args, **options)


def _become(words: Sequence[str], env: Mapping[str, str] | None, kept: Sequence[int]) -> NoReturn:
    """Run a module in this fork, which has its streams and directory, in the place of a program."""
    for first, last in pairwise(sorted({_FIRST_OTHER - 1, *kept, os.sysconf("SC_OPEN_MAX")})):
        os.closerange(first + 1, last)  # whoever started it waits for that
    for number, action in _AT_START.items():
        signal.signal(number, action)
    logging.root.handlers.clear()
    if env is not None:
        os.environ.clear()
        os.environ.update(env)
    sys.argv = list(words)
    code: Any = 0
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as ending:
        code = ending.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else code is not None)


def _serve(requests: socket.socket, modules: Sequence[str]) -> None:
    """Fork for each request, until there will be none."""
    for name in modules:
        importlib.import_module(name)
    gc.freeze()  # what is shared with forks stays so
    subprocess.Popen = _Forking  # type: ignore[misc]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever waits for a fork is not waited for
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, _MOST_BYTES, 3)
        if not request:
            return
        if os.fork() == 0:
            try:
                _fork_and_tell(json.loads(request), *descriptors)
            finally:
                os._exit(1)
        for descriptor in descriptors:
            os.close(descriptor)


def _fork_and_tell(request: Sequence[Any], output: int, errors: int, told: int) -> NoReturn:
    """Be the parent of one fork: tell its number, and how it ended."""
    directory, env, *words = request
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.chdir(directory)
        for source, stream in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (errors, 2)):
            os.dup2(source, stream)
        _become(words, env, ())
    for descriptor in (output, errors):
        os.close(descriptor)
    os.write(told, b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    os.write(told, b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
