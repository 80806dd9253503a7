"""A state directory has one owner, who finds no drafts in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedprune.errors import StorageError
from fedprune.system.disk import Directory
from fedprune.system.ownership import owned

_OWNER = """
import sys
from pathlib import Path
from fedprune.errors import StorageError
from fedprune.system.ownership import owned
try:
    with owned(Path(sys.argv[1])):
        print("owned", flush=True)
        sys.stdin.read()
except StorageError as error:
    print(error, flush=True)
"""


@contextmanager
def process(path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that wants to own `path`, and what it says."""
    command = [sys.executable, "-c", _OWNER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        yield child, child.stdout.readline().strip()


def test_a_second_process_is_refused_with_the_first_ones_number(tmp_path: Path) -> None:
    state = tmp_path / "deep" / "state"
    with process(state) as (first, said):
        assert said == "owned"
        expected = f"{state} is in use by process {first.pid}; stop it, or name another state directory"
        with process(state) as (_, second_said):
            assert second_said == expected
        with pytest.raises(StorageError) as caught, owned(state):
            pass
        assert str(caught.value) == expected


@pytest.mark.parametrize("how", [signal.SIGKILL, None], ids=["killed", "ended"])
def test_the_next_one_owns_it_however_the_last_one_ended(tmp_path: Path, how: signal.Signals | None) -> None:
    with process(tmp_path) as (first, _):
        if how is None:
            first.communicate("")
        else:
            first.send_signal(how)
            first.wait()
    with process(tmp_path) as (_, said):
        assert said == "owned"


def test_children_do_not_keep_it(tmp_path: Path) -> None:
    with owned(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        with owned(tmp_path), pytest.raises(StorageError, match=rf"in use by process {os.getpid()};"), owned(tmp_path):
            pass
    finally:
        child.communicate()


def test_drafts_are_gone_once_it_is_owned_and_nothing_else_is(tmp_path: Path) -> None:
    """Also those in the parts that belong to it; what others write below it is left alone."""
    for name in (".", "updates", "export"):
        (tmp_path / name).mkdir(exist_ok=True)
        for file in ("memory.json", ".abc.safetensors.draft", ".memory.json.draft", ".hidden"):
            (tmp_path / name / file).write_bytes(b"x")

    with owned(tmp_path, "updates") as directory:
        directory.write("memory.json", b"new")

    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        "memory.json",
        ".hidden",
        ".owner",
        "updates/memory.json",
        "updates/.hidden",
        "export/memory.json",
        "export/.hidden",
        "export/.abc.safetensors.draft",
        "export/.memory.json.draft",
    }
    assert directory.names() == ["memory.json"]


def test_who_reads_needs_no_ownership_and_touches_no_draft(tmp_path: Path) -> None:
    with owned(tmp_path) as directory:
        directory.write("a", b"blob")
        (tmp_path / ".b.draft").write_bytes(b"half wr")

        assert Directory(tmp_path).read("a") == b"blob"
        assert (tmp_path / ".b.draft").exists()
        with pytest.raises(StorageError), owned(tmp_path):
            pass
        assert (tmp_path / ".b.draft").exists(), "who is refused deletes nothing"


def test_a_directory_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / ".owner").mkdir()

    with pytest.raises(StorageError, match=r"\.owner: Is a directory"), owned(tmp_path):
        pass
