"""Paths as text: file names are bytes, which need not be text in any encoding."""

from __future__ import annotations

import shlex
from pathlib import Path


def path_text(path: Path | str) -> str:
    """`path`, or a line with paths in it, as text that can be written anywhere; what is not text looks like \\xff.

    Example:
        >>> path_text(Path("caf\\udce9.tflite"))
        'caf\\\\xe9.tflite'
    """
    return str(path).encode(errors="surrogateescape").decode(errors="backslashreplace")


def shell_text(path: Path | str) -> str:
    """`path` as a word of a command that a person copies into a shell.

    Example:
        >>> shell_text("my photos"), shell_text("photos")
        ("'my photos'", 'photos')
        >>> print(shell_text("it's caf\\udce9"))
        $'it\\'s caf\\xe9'
    """
    text = path_text(path)
    if text == str(path):
        return shlex.quote(text)
    plain = str(path).replace("\\", r"\\").replace("'", r"\'")
    return f"$'{path_text(plain)}'"  # the form in which shells read \xff as a byte
