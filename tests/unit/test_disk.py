"""The disk: written whole or not at all, and one kind of error where the operating system refuses."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedprune.errors import StorageError
from fedprune.system.disk import Directory, why_unreadable
from fedprune.system.ownership import owned

LIMIT = 64 * 1024
NOBODY = 65534


@contextmanager
def full_disk() -> Iterator[None]:
    """Let the kernel refuse to make any file longer than `LIMIT`, as a disk does that has no room for more."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.fixture
def disk(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "deep" / "disk")


def files(disk: Directory) -> set[str]:
    """Everything in the directory, drafts included."""
    return {path.name for path in disk.path.iterdir()}


def test_what_was_written_is_read(disk: Directory) -> None:
    disk.write("b", b"first")
    disk.write("a", b"")
    disk.write("b", b"second")

    assert (disk.read("a"), disk.read("b"), disk.read("c")) == (b"", b"second", None)
    assert disk.names() == ["a", "b"]
    disk.delete("b")
    disk.delete("b")
    assert disk.names() == ["a"]
    assert Directory(disk.path).read("a") == b""


def test_a_file_is_copied_in_whole(disk: Directory, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 100_000)

    disk.copy_in("copy", tmp_path / "source")

    assert disk.read("copy") == b"x" * 100_000


def test_drafts_are_no_blobs(disk: Directory) -> None:
    (disk.path / ".a.draft").write_bytes(b"half wr")
    (disk.path / "directory").mkdir()

    assert disk.names() == []
    disk.write("a", b"whole")
    assert files(disk) == {"a", "directory"}


@pytest.mark.parametrize("way", ["write", "copy_in", "write_through"])
def test_what_is_there_already_is_not_written_again(tmp_path: Path, way: str) -> None:
    disk, source = Directory(tmp_path / "disk"), tmp_path / "source"

    def put(blob: bytes) -> int:
        source.write_bytes(blob)
        ways: dict[str, Callable[[], None]] = {
            "write": lambda: disk.write("a", blob),
            "copy_in": lambda: disk.copy_in("a", source),
            "write_through": lambda: disk.write_through("a", lambda file: file.write(blob)),
        }
        ways[way]()
        assert disk.read("a") == blob
        assert disk.names() == ["a"]
        return (disk.path / "a").stat().st_ino

    first = put(b"one")
    assert put(b"one") == first
    assert put(b"two") != first


@pytest.mark.parametrize("way", ["write", "copy_in"])
def test_a_full_disk_loses_nothing_and_leaves_no_draft(disk: Directory, tmp_path: Path, way: str) -> None:
    large = b"x" * (2 * LIMIT)
    (tmp_path / "source").write_bytes(large)
    disk.write("a", b"what was there")

    def overwrite() -> None:
        if way == "write":
            disk.write("a", large)
        else:
            disk.copy_in("a", tmp_path / "source")

    with full_disk(), pytest.raises(StorageError, match=r"disk/a: File too large; free space .* nothing is lost"):
        overwrite()

    assert disk.read("a") == b"what was there"
    assert files(disk) == {"a"}
    overwrite()
    assert disk.read("a") == large


def test_a_write_that_cannot_be_made_durable_is_no_write(disk: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync is where a full disk or a dying card may first say so."""
    disk.write("a", b"what was there")

    def fails(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(StorageError, match="No space left on device"):
        disk.write("a", b"something else")

    assert disk.read("a") == b"what was there"
    assert files(disk) == {"a"}


@pytest.mark.parametrize(
    "use",
    [
        lambda disk: disk.write("a", b""),
        lambda disk: disk.names(),
        lambda disk: disk.copy_in("a", Path(__file__)),
        lambda disk: disk.read("directory"),
        lambda disk: disk.delete("directory"),
        lambda disk: disk.write("directory", b""),
        lambda disk: disk.read("n" * 300),
        lambda disk: disk.write("n" * 300, b""),
    ],
    ids=["write", "names", "copy_in", "read a directory", "delete a directory", "write a directory", "long", "longer"],
)
def test_whatever_the_operating_system_refuses_is_a_storage_error(
    disk: Directory, use: Callable[[Directory], object], request: pytest.FixtureRequest
) -> None:
    (disk.path / "directory").mkdir()
    if request.node.callspec.id in ("write", "names", "copy_in"):
        (disk.path / "directory").rmdir()
        disk.path.rmdir()

    with pytest.raises(StorageError, match="free space or mend the directory"):
        use(disk)


@pytest.fixture
def made_and_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Which directories were made and which synced, in order, below the directory above the test's own."""
    noted: list[tuple[str, str]] = []
    mkdir, fsync = os.mkdir, os.fsync

    def note(what: str, path: Path) -> None:
        noted.append((what, str(path.relative_to(tmp_path.parent)).replace(tmp_path.name, "here")))

    def noting_mkdir(path: Path, *arguments: int) -> None:
        mkdir(path, *arguments)
        note("made", Path(path))

    def noting_fsync(descriptor: int) -> None:
        fsync(descriptor)
        note("synced", Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "mkdir", noting_mkdir)
    monkeypatch.setattr(os, "fsync", noting_fsync)
    return noted


def test_each_directory_has_a_durable_name_before_the_next_is_made_in_it(
    tmp_path: Path, made_and_synced: list[tuple[str, str]]
) -> None:
    Directory(tmp_path / "a" / "b")

    assert made_and_synced == [
        ("synced", "."),
        ("made", "here/a"),
        ("synced", "here"),
        ("made", "here/a/b"),
        ("synced", "here/a"),
    ]


def test_what_is_found_is_made_durable_by_who_owns_it(tmp_path: Path, made_and_synced: list[tuple[str, str]]) -> None:
    """Whoever left it may have been killed before it could."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    made_and_synced.clear()

    with owned(tmp_path / "a", "b"):
        assert {("synced", "here"), ("synced", "here/a"), ("synced", "here/a/b")} <= set(made_and_synced)


def test_a_directory_above_that_may_not_be_read_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    disk = Directory(Path("state"))
    disk.path.chmod(0o777)
    tmp_path.chmod(0o311)
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.seteuid(NOBODY)
        disk.sync()
        disk.write("a", b"whole")
    finally:
        if is_root:
            os.seteuid(0)
        tmp_path.chmod(0o700)

    assert disk.read("a") == b"whole"


def test_a_file_in_the_directorys_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match=f"{path}: a file is where this directory should be; name another one"):
            Directory(path)


def test_what_is_no_file_to_read_is_said_to_be_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")

    names = ("file", ".", "missing", "pipe", "file/below", "n" * 300)
    assert [why_unreadable(tmp_path / name) for name in names] == [
        "",
        "is a directory",
        "there is no such file",
        "is not a regular file",
        "Not a directory",
        "File name too long",
    ]
