"""The common parts of the benchmarks' command lines: an error in one line, and the option ``--json``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from fedprune.errors import FedpruneError, StorageError
from fedprune.system.output import install_streams
from fedprune.system.process import interruptible

STANDARD_OUTPUT = Path("-")

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Script(click.Command):
    """A command that is run by `python -m`: a `FedpruneError` is one line on stderr and its own exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        install_streams()
        try:
            with interruptible():
                return super().invoke(ctx)
        except FedpruneError as error:
            click.echo(f"Error: {' '.join(str(error).split())}", err=True)
            ctx.exit(error.exit_code)


def json_option(what: str, *, allow_dash: bool = False) -> Callable[[_Command], _Command]:
    """The option ``--json FILE``, a parameter `target`: None, or where a file can be written before the work begins.

    With `allow_dash` it may be `STANDARD_OUTPUT`.
    """

    def check(_: click.Context, __: click.Parameter, target: Path | None) -> Path | None:
        if target is None or target.exists() or (allow_dash and target == STANDARD_OUTPUT):
            return target
        directory = target.absolute().parent
        if not directory.is_dir() or not os.access(directory, os.W_OK):
            raise click.BadParameter(f"{target}: cannot write into {target.parent}; make that directory first")
        return target

    kind = click.Path(dir_okay=False, writable=True, allow_dash=allow_dash, path_type=Path)
    return click.option("--json", "target", type=kind, callback=check, metavar="FILE", help=what)


def to_json(value: Any) -> bytes:
    """Indented, with a newline at its end."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def write_json(value: Any, target: Path | None) -> None:
    """Write it where ``--json`` says, if it does. Raises `StorageError`."""
    if target is None:
        return
    try:
        target.write_bytes(to_json(value))
    except OSError as error:
        raise StorageError(f"--json {target}: {error.strerror}; give a file that can be written") from error
