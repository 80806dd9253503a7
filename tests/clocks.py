"""Processes whose clock is wrong, and can be set right while they run: a library that is loaded before the system's.

It moves what the C library takes for the present, for Python and OpenSSL alike; monotonic clocks, by which waits are
measured, go on as they are. (faketime's own library moves them too, or breaks sleeping.)
"""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

COMPILER = shutil.which("cc") or shutil.which("gcc")
MISSING = "" if COMPILER else "no C compiler is installed"

_SHIM = r"""
typedef struct { long seconds, parts; } pair;
void *dlsym(void *, const char *);
char *getenv(const char *);
int open(const char *, int, ...);
long read(int, void *, unsigned long);
int close(int);

static long ahead(void) {
    char digits[32] = {0};
    const char *path = getenv("CLOCK_AHEAD_FILE");
    int file = path ? open(path, 0) : -1;
    if (file < 0) return 0;
    long length = read(file, digits, sizeof digits - 1), found = 0, at = digits[0] == '-';
    close(file);
    for (; at < length && digits[at] >= '0' && digits[at] <= '9'; at++) found = 10 * found + digits[at] - '0';
    return digits[0] == '-' ? -found : found;
}

int clock_gettime(int clock, pair *found) {
    int (*real)(int, pair *) = dlsym((void *)-1, "clock_gettime");
    int code = real(clock, found);
    if (!code && clock == 0) found->seconds += ahead();
    return code;
}

int gettimeofday(pair *found, void *zone) {
    int (*real)(pair *, void *) = dlsym((void *)-1, "gettimeofday");
    int code = real(found, zone);
    if (!code) found->seconds += ahead();
    return code;
}

long time(long *found) {
    pair now;
    clock_gettime(0, &now);
    if (found) *found = now.seconds;
    return now.seconds;
}
"""


@dataclass(frozen=True)
class WrongClock:
    """A clock of its own for each process that is given `env`, as far ahead as its file says."""

    directory: Path

    def __post_init__(self) -> None:
        self.directory.mkdir()
        (self.directory / "shim.c").write_text(_SHIM)
        assert COMPILER is not None
        options = ("-shared", "-fPIC", "-nostdlib", "-O1", "-w", "-fno-builtin")
        subprocess.run([COMPILER, *options, "shim.c", "-o", "shim.so"], cwd=self.directory, check=True)
        self.set_right()

    @property
    def env(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.directory / "shim.so"), "CLOCK_AHEAD_FILE": str(self._file)}

    def set_to(self, year: int) -> None:
        """From now on it says the first of January of that year, and goes on from there."""
        self._write(int(datetime(year, 1, 1, 12, tzinfo=UTC).timestamp() - time.time()))

    def set_right(self) -> None:
        self._write(0)

    @property
    def _file(self) -> Path:
        return self.directory / "ahead"

    def _write(self, seconds: int) -> None:
        (self.directory / "new").write_text(str(seconds))
        (self.directory / "new").rename(self._file)
