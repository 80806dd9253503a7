"""The walkthroughs that documents mark with ``<!-- run -->`` work as they are written, from the first to the last line.

They are run in a copy of docs/examples, with two changes: fewer rounds, and a port that is free.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.snippets import DOCUMENTS, ROOT, blocks
from tests.patience import PATIENCE_S

_STOPPED = (0, 130)

_MARKED = [document for document in DOCUMENTS if any(block.how is not None for block in blocks(document))]


class _Reader:
    """Somebody with a shell, and as many terminals as it takes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        self._terminals: list[subprocess.Popen[str]] = []
        self._port = _free_port()
        federation = directory / "federation.toml"
        federation.write_text(
            federation.read_text().replace("1883", str(self._port)).replace("count = 20", "count = 2")
        )

    def run(self, command: str) -> None:
        """Type a command and wait for its end."""
        process = self._start(command)
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, f"$ {command}\n{output}"

    def open_terminal(self, command: str, *, until_it_speaks: bool) -> None:
        """Type a command in a terminal of its own, and leave it running."""
        command = command.replace("fedprune broker", f"fedprune broker --port {self._port}")
        command = command.replace("fedprune agent", f"fedprune agent --broker mqtt://127.0.0.1:{self._port}")
        process = self._start(command)
        self._terminals.append(process)
        if until_it_speaks:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], PATIENCE_S)[0], f"{command} says nothing"

    def leave(self) -> None:
        """Ctrl-C in every terminal, the last one first."""
        for process in reversed(self._terminals):
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=PATIENCE_S)
            print(output)
            assert process.returncode in _STOPPED, output

    def kill(self) -> None:
        for process in self._terminals:
            process.kill()

    def _start(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[_Reader]:
    reader = _Reader(Path(shutil.copytree(ROOT / "docs" / "examples", tmp_path / "examples")))
    yield reader
    reader.kill()


@pytest.mark.parametrize("document", _MARKED, ids=lambda document: str(document.relative_to(ROOT)))
def test_a_walkthrough_works(document: Path, reader: _Reader) -> None:
    for block in blocks(document):
        match block.how:
            case "":
                for command in block.commands:
                    reader.run(command)
            case "background":
                for command in block.commands:
                    reader.open_terminal(command, until_it_speaks=True)
            case "together":
                first, *others = block.commands
                for command in others:
                    reader.open_terminal(command, until_it_speaks=False)
                reader.run(first)
    reader.leave()
