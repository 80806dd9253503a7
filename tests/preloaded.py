"""Commands in a process that has loaded already what they import: it forks for each of them, and so do they for theirs.

Loading TensorFlow takes five seconds of a processor, which `init`, `simulate` and `export` each spend; what other
commands import takes half a second. Here a process loads it once; where a command would start `python -m MODULE`, a
fork runs that module, with its own arguments, directory, environment and streams. Nothing else is different.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import logging
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

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
    "fedprune.identity.device_commands",
)
"""What all others import: none of it is TensorFlow, whose libraries would be in the memory of each."""

_PATIENCE_S = 900.0
"""How long a command may take. Some train a federation beside other tests."""

_ROOT = Path(__file__).parents[1]

_FIRST_OTHER = 3
"""The first file descriptor that is no standard stream."""

_AT_START = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGPIPE: signal.SIG_IGN,
    signal.SIGTERM: signal.SIG_DFL,
}
"""What Python does with signals when it starts."""


class Preloaded:
    """A process that runs commands one after another, and ends with this one."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.preloaded", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )
        atexit.register(self._process.communicate)

    def run(self, module: str, *arguments: str, directory: Path) -> tuple[int, str, str]:
        """`python -m MODULE ARGUMENTS` in a directory: its exit code, and what it wrote to both its streams."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = json.dumps([module, arguments, str(directory), dict(os.environ)])
        print(request, file=self._process.stdin, flush=True)
        code, output, errors = json.loads(self._process.stdout.readline())
        return code, output, errors


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


def _serve(modules: Sequence[str]) -> None:
    """Answer each line of standard input."""
    for name in modules:
        importlib.import_module(name)
    gc.freeze()  # what is shared with forks stays so
    subprocess.Popen = _Forking  # type: ignore[misc]
    for line in sys.stdin:
        module, arguments, directory, env = json.loads(line)
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=directory,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        print(json.dumps([done.returncode, done.stdout, done.stderr]), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1:])
