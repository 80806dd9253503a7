"""Keeps the chatter of C++ libraries, which no setting of theirs turns off, away from standard error."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_lock = threading.RLock()  # file descriptor 2 belongs to the whole process


@contextmanager
def without_lines(is_noise: Callable[[bytes], object]) -> Iterator[None]:
    """Catch what any thread writes to file descriptor 2 meanwhile; at the end pass on every line but the noise."""
    import tempfile  # an agent that waits does without

    with _lock, tempfile.TemporaryFile() as caught:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            with suppress(OSError):
                os.write(2, b"".join(line for line in caught if not is_noise(line)))
