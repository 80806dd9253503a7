"""strace: every call of a process that changes files or sends, with all bytes, in the order in which it was made."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.processes import FEDPRUNE

SENDS = frozenset({"sendto"})
_MODELLED = (
    "openat,lseek,write,pwrite64,ftruncate,rename,unlink,mkdir,fsync,fdatasync,mmap",
    ",".join(sorted(SENDS)),
)
_UNKNOWN_TO_THE_MODEL = (
    "open,creat,dup,dup2,dup3,writev,pwritev,pwritev2,truncate,fallocate,renameat,renameat2,unlinkat,rmdir,mkdirat",
    "link,linkat,symlink,symlinkat,mknod,mknodat,sync_file_range,copy_file_range,sendfile,splice,msync",
)
"""A recording that has one of these on a watched file is refused, and the model has to learn it."""

_ALL_BYTES = str(1 << 24)
_CALL = re.compile(r"(\w+)\((.*)\)\s+= (.*)", re.DOTALL)
_UNFINISHED = " <unfinished ...>"
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(.*)", re.DOTALL)


@dataclass
class Call:
    """A system call. `result` is what it returned, as strace prints it; a descriptor has its path in angle brackets."""

    at: float
    name: str
    arguments: list[str]
    result: str = ""

    @property
    def succeeded(self) -> bool:
        return self.result[:1].isdigit() or self.result.startswith("0x")


@cache
def why_unusable() -> str:
    """Why nothing can be recorded on this machine; empty if it can."""
    try:
        tracing = ("strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "true")
        done = subprocess.run(tracing, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "strace is not installed"
    return "" if done.returncode == 0 else f"strace cannot trace here: {done.stderr.strip()}"


@dataclass(frozen=True)
class Kill:
    """A process is killed as it calls `call` (fsync or fdatasync) for that time on a thread: what it did before is seen
    by whoever comes after it, and not durable."""

    call: str
    time: int


def traced(trace: Path, kill: Kill | None = None) -> tuple[str, ...]:
    """The command that runs fedprune while all that matters is written to `trace`; its process is fedprune's own."""
    calls = ",".join((*_MODELLED, *_UNKNOWN_TO_THE_MODEL))
    how = ("-D", "-f", "-ttt", "-y", "-xx", "-s", _ALL_BYTES, "-e", f"trace={calls}")
    # The filter makes all other calls fast, but hides from strace that it should kill.
    end = ("-e", f"inject={kill.call}:signal=KILL:when={kill.time}") if kill else ("--seccomp-bpf",)
    return ("strace", *how, *end, "-o", str(trace), *FEDPRUNE)


def read_calls(trace: Path) -> list[Call]:
    """All calls that returned, in order. One that sends stands where it began, any other where it had ended."""
    calls: list[Call] = []
    begun: dict[str, tuple[str, Call | None]] = {}
    for line in _lines(trace):
        thread, at, text = line.split(maxsplit=2)
        if text.endswith(_UNFINISHED):
            beginning = text.removesuffix(_UNFINISHED)
            sending = None
            if beginning.partition("(")[0] in SENDS:
                calls.append(sending := Call(float(at), *_split(beginning)))
            begun[thread] = (beginning, sending)
        elif resumed := _RESUMED.fullmatch(text):
            beginning, sending = begun.pop(thread)
            call = _call(float(at), beginning + resumed[1])
            if sending is None:
                calls.append(call)
            else:
                sending.result = call.result
        elif _CALL.fullmatch(text):
            calls.append(_call(float(at), text))
    return [call for call in calls if call.succeeded]


def path_of(descriptor: str) -> str:
    """The path behind a descriptor, of an argument or a result."""
    return text_of(descriptor[descriptor.index("<") + 1 : descriptor.rindex(">")])


def text_of(argument: str) -> str:
    return bytes_of(argument).decode()


def bytes_of(argument: str) -> bytes:
    return bytes.fromhex(argument.strip('"').replace("\\x", ""))


def _lines(trace: Path) -> Iterator[str]:
    with trace.open() as file:
        for line in file:
            yield line.rstrip("\n")


def _call(at: float, text: str) -> Call:
    matched = _CALL.fullmatch(text)
    assert matched is not None, text[:200]
    name, arguments, result = matched.groups()
    return Call(at, name, arguments.split(", "), result)


def _split(beginning: str) -> tuple[str, list[str]]:
    name, _, arguments = beginning.partition("(")
    return name, arguments.split(", ")
