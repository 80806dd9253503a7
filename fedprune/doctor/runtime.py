"""The runtime: LiteRT is imported and computes something small, in a process of its own, which it may crash."""

from __future__ import annotations

import signal
import subprocess
import sys

import msgspec

from fedprune.doctor.finding import Finding, failed, ok

_TRIAL = "fedprune.doctor.runtime_trial"
_PATIENCE_S = 120.0
"""For an import from a slow SD card."""

_LAST_WORDS = 200


class Tried(msgspec.Struct, frozen=True):
    """What the trial's process found: the runtime's name and version, or what is wrong."""

    runtime: str = ""
    problem: str = ""


def examine_runtime() -> Finding:
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", _TRIAL], capture_output=True, timeout=_PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return failed("runtime", f"its trial could not be made ({type(error).__name__})", "is the machine overloaded?")
    return judge_trial(done.returncode, done.stdout, done.stderr)


def judge_trial(code: int, said: bytes, complained: bytes) -> Finding:
    """`code` is the trial's exit code, or the negative number of the signal that ended it."""
    check = "runtime"
    if code == -signal.SIGILL:
        return failed(
            check,
            "LiteRT or numpy uses instructions that this processor does not have",
            "use a processor that has them (a Pi 2 or later), or builds that are made for this one",
        )
    if code < 0:
        name = signal.Signals(-code).name
        return failed(check, f"LiteRT was ended by {name}", "install it anew: pip install --force-reinstall")
    try:
        tried = msgspec.json.decode(said, type=Tried)
    except msgspec.DecodeError:
        last = complained.decode(errors="replace").strip().rpartition("\n")[2][:_LAST_WORDS]
        return failed(check, f"it cannot be tried: {last or f'exit code {code}'}", "install fedprune anew")
    if tried.problem:
        return failed(check, tried.problem)
    return ok(check, f"{tried.runtime} computes as it should")
