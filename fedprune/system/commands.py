"""Groups of commands whose help tells each command's summary whole: click cuts it where the line ends."""

from __future__ import annotations

import click

_WHOLE = 10_000
"""Letters: more than any summary has."""


class Commands(click.Group):
    """A group of commands. The list of them in its help is wrapped, and not cut."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        rows = [(name, command.get_short_help_str(_WHOLE)) for name, command in found if command is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
