"""Real fedprune processes: started as a user starts them, waited for by what they say, ended by their process id."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tests.patience import PATIENCE_S
from tests.preloaded import OTHERS, TENSORFLOW, Forked, Preloaded, preloaded

_COMMAND = "fedprune.command"
FEDPRUNE = (sys.executable, "-m", _COMMAND)
_LOOK_S = 0.05
"""Seconds between two looks at what is no event."""

BEFORE_THE_ALARM_S = 12.0
"""An agent without work looks up after 15 s at the earliest, an aggregator without agents at the round's deadline."""


_WITH_TENSORFLOW = ("export", "init", "task")
"""Commands that need it, or a process of their own that does."""

_QUIET = {"PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ""}


class Child:
    """A process that runs, and what it has said so far on each of its outputs. `by` is the command that is started.

    Without it and `env`, which concern how Python starts, a process is forked that has started.
    """

    def __init__(
        self, *arguments: str | Path, env: dict[str, str] | None = None, by: Sequence[str] | None = None
    ) -> None:
        self._changed = threading.Condition()
        self._lines: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._read = {"stdout": 0, "stderr": 0}
        pipes = {name: os.pipe() for name in self._lines}
        self._process = _started([str(word) for word in arguments], env, by, *(writer for _, writer in pipes.values()))
        for _, writer in pipes.values():
            os.close(writer)
        self._readers = [
            threading.Thread(target=self._follow, args=(name, os.fdopen(reader)), daemon=True)
            for name, (reader, _) in pipes.items()
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.ends()

    @property
    def stderr(self) -> str:
        with self._changed:
            return "".join(self._lines["stderr"])

    @property
    def pid(self) -> int:
        return self._process.pid

    def mapped(self) -> str:
        """The files that its memory maps, its libraries among them, as the kernel reports them."""
        return Path(f"/proc/{self._process.pid}/maps").read_text()

    def says(self, text: str, where: str = "stderr") -> str:
        """Wait for the next line that contains `text`; lines before it are skipped."""
        deadline = time.monotonic() + PATIENCE_S
        with self._changed:
            while True:
                lines = self._lines[where]
                while self._read[where] < len(lines):
                    line = lines[self._read[where]]
                    self._read[where] += 1
                    if text in line:
                        return line
                left = deadline - time.monotonic()
                ended = not any(reader.is_alive() for reader in self._readers)
                assert left > 0 and not ended, f"{text!r} was not said; what was:\n{''.join(lines)[-3000:]}"  # noqa: PT018
                self._changed.wait(min(left, 1.0))

    def reports(self) -> dict[str, Any]:
        """The next round's record, of an aggregator with ``--json``."""
        record: dict[str, Any] = json.loads(self.says("{", "stdout"))
        return record

    @contextmanager
    def held_up(self) -> Iterator[None]:
        """Meanwhile the process does not move."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """As a power cut does."""
        self._process.kill()
        self.ends()

    def interrupt(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ctrl-C: it has to end before anything else would wake it."""
        self._process.send_signal(how)
        self._process.wait(BEFORE_THE_ALARM_S)

    def ends(self) -> int:
        """Its exit code, once it ends by itself."""
        code = self._process.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        return code

    def _follow(self, name: str, stream: IO[str]) -> None:
        for line in stream:
            with self._changed:
                self._lines[name].append(line)
                self._changed.notify_all()
        stream.close()
        with self._changed:
            self._changed.notify_all()


def _started(
    words: Sequence[str], env: dict[str, str] | None, by: Sequence[str] | None, output: int, errors: int
) -> Forked | subprocess.Popen[bytes]:
    whole = {**os.environ, **_QUIET, **(env or {})}
    if by is None and env is None:
        return _imported(words).start(_COMMAND, *words, env=whole, output=output, errors=errors, directory=Path.cwd())
    command = [*(by or FEDPRUNE), *words]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=whole, start_new_session=True
    )


def _imported(words: Sequence[str]) -> Preloaded:
    return preloaded(TENSORFLOW if words[0] in _WITH_TENSORFLOW else OTHERS)


def run(*arguments: str | Path, env: dict[str, str] | None = None, largest_file: int = 0) -> tuple[int, str]:
    """Run a command to its end: exit code and what it said on stderr.

    With `largest_file`, in kB, the disk is full for every file that would become larger, and Python leaves no half of
    what it compiled. Without it and `env`, which concern how Python starts, a process is forked that has started.
    """
    words = [str(word) for word in arguments]
    if not env and not largest_file:
        code, _, said = ran(*words)
        return code, said
    limit = ("bash", "-c", f'ulimit -f {largest_file}; exec "$@"', "bash") if largest_file else ()
    compiled = {"PYTHONDONTWRITEBYTECODE": "1"} if largest_file else {}
    done = subprocess.run(
        [*limit, *FEDPRUNE, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **compiled, **(env or {})},
        timeout=PATIENCE_S,
        check=False,
    )
    return done.returncode, done.stderr


def ran(*arguments: str | Path) -> tuple[int, str, str]:
    """Run a command to its end: exit code, and what it said on stdout and on stderr."""
    words = [str(word) for word in arguments]
    return _imported(words).run(_COMMAND, *words, directory=Path.cwd())


def until(is_so: Callable[[], bool], what: str) -> None:
    """Wait for what nobody says, as that a file has grown."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(_LOOK_S)


def toml(settings: dict[str, Any], section: str = "") -> str:
    """A configuration file's text: values first, then the tables."""
    plain = [f"{key} = {json.dumps(value)}" for key, value in settings.items() if not isinstance(value, dict)]
    tables: Iterable[str] = (
        f"[{section}{key}]\n{toml(value, f'{section}{key}.')}"
        for key, value in settings.items()
        if isinstance(value, dict)
    )
    return "\n".join([*plain, *tables]) + "\n"
