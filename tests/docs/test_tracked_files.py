"""Nothing that is committed knows the machine it was written on, or where that machine got its packages."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.docs.snippets import ROOT

_PLACES = re.compile(
    r"""(?<![\w.$}/-])/(?:work|root|tmp|home/(?!pi\b))\b  # directories of one machine
    | file:/{3}
    | -{2}(?:index-url|extra-index-url|find-links|trusted-host)
    | \b(?:pypi|pythonhosted)\.\w+""",
    re.VERBOSE,
)


def _tracked() -> list[str]:
    # Whoever owns the clone: git refuses to read another user's.
    command = ("git", "-c", f"safe.directory={ROOT}", "ls-files", "-z")
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git clone: nothing says which files are the project's")
    return listed.stdout.split("\0")[:-1]


def test_no_machine_path_or_registry_is_committed() -> None:
    found = []
    for name in _tracked():
        path = ROOT / name
        if path.is_file():
            lines = path.read_bytes().decode(errors="replace").splitlines()
            found += [f"{name}:{number}: {line}" for number, line in enumerate(lines, 1) if _PLACES.search(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("parts", [("", "work", "main"), ("", "tmp"), ("", "root", "x"), ("", "home", "ann", "x")])
def test_a_machine_path_is_recognised(parts: tuple[str, ...]) -> None:
    assert _PLACES.search(f'open("{"/".join(parts)}")')


def test_a_registry_is_recognised() -> None:
    assert _PLACES.search("https://" + ".".join(("pypi", "org", "simple")))


@pytest.mark.parametrize("line", ["rounds/work/x", "$HOME/work", "https://host/tmp/x", "edge_agent/work", "../tmp"])
def test_what_only_looks_like_a_place_is_not(line: str) -> None:
    assert not _PLACES.search(line)
