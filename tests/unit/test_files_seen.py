"""New, changed and removed files are noticed; nothing else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedprune.data.files_seen import files_seen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cats").mkdir()
    for name in ("cats/1.png", "cats/2.png", "rows.csv"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_what_is_looked_at_twice_is_the_same(folder: Path) -> None:
    assert files_seen(folder) == files_seen(folder)
    assert files_seen(folder / "rows.csv") == files_seen(folder / "rows.csv")


def test_a_file_that_is_added_changed_renamed_or_removed_is_noticed(folder: Path) -> None:
    seen = [files_seen(folder)]
    (folder / "cats" / "3.png").write_bytes(b"new")
    seen.append(files_seen(folder))
    (folder / "cats" / "3.png").write_bytes(b"longer than before")
    seen.append(files_seen(folder))
    (folder / "cats" / "3.png").rename(folder / "cats" / "4.png")
    seen.append(files_seen(folder))
    os.utime(folder / "cats" / "4.png", (1, 1))
    seen.append(files_seen(folder))
    (folder / "cats" / "4.png").unlink()
    assert files_seen(folder) == seen[0]
    assert len(set(seen)) == len(seen)


def test_a_function_and_a_link_to_nowhere_are_no_fault(folder: Path) -> None:
    (folder / "gone").symlink_to(folder / "nowhere")
    assert files_seen(folder) == files_seen(folder)
    assert files_seen(folder / "mine.py:load") == files_seen(folder / "mine.py:load")
