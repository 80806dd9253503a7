"""The claims of a benchmark about its figures: printed with the verdict, and the exit code for scripts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NoReturn

import click

_VERDICTS = {True: "yes", False: "NO", None: "not tried"}


def settle(claims: Mapping[str, bool | None]) -> NoReturn:
    """Print each claim and whether it holds, None being not tried; leave with exit code 1 if one does not."""
    for claim, holds in claims.items():
        click.echo(f"{_VERDICTS[holds]:3}  {claim}")
    sys.exit(1 if False in claims.values() else 0)
