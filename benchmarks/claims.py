"""What a benchmark claims of its figures: printed with the verdict, and the exit code for scripts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NoReturn

import click


def settle(claims: Mapping[str, bool]) -> NoReturn:
    """Print each claim and whether it holds; leave with exit code 1 if one does not."""
    for claim, holds in claims.items():
        click.echo(f"{'yes' if holds else 'NO '}  {claim}")
    sys.exit(0 if all(claims.values()) else 1)
