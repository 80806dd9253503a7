"""Keys and passwords: they can be read here, and by nobody else on this machine."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from fedprune.doctor.finding import Finding, failed, ok, warning
from fedprune.system.disk import why_unreadable
from fedprune.system.paths import shell_text
from fedprune.wire.broker import Broker

_GROUP, _OTHERS = 0o070, 0o007


def examine_secrets(files: Mapping[str, Path]) -> Iterator[Finding]:
    """`files` by the settings that name them."""
    for what, path in files.items():
        yield _examine_secret(what, path)


def broker_secrets(broker: Broker) -> dict[str, Path]:
    """The files of a broker's table that are secret."""
    named = {"broker.password_file": broker.password_file, "broker.tls.key": broker.tls.key}
    return {what: Path(path) for what, path in named.items() if path is not None}


def _examine_secret(what: str, path: Path) -> Finding:
    check = "secrets"
    if why := why_unreadable(path):
        return failed(check, f"{what}: {path}: {why}", "restore it, or make it this user's: sudo chown")
    state = path.stat()
    return judge_rights(f"{what}: {path}", path, stat.S_IMODE(state.st_mode), state.st_uid, os.geteuid())


def judge_rights(told: str, path: Path, mode: int, owner: int, user: int) -> Finding:
    """Who may read or change a secret file of mode `mode` and owner `owner`, if `user` examines it."""
    check, mending = "secrets", f"chmod 600 {shell_text(path)}"
    if mode & _OTHERS:
        return failed(check, f"{told} has mode {mode:04o}: everybody on this machine can read or change it", mending)
    if mode & _GROUP:
        return warning(check, f"{told} has mode {mode:04o}: its group can read or change it", mending)
    if user not in (0, owner):
        return warning(check, f"{told} is not this user's", f"sudo chown $USER {path}")
    return ok(check, f"{told} is its owner's alone")
