"""What init cannot know: each question has an option, and is asked on a terminal where the option is not given."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

import click

from fedprune.errors import ConfigurationError

_SHOWN = 12
"""Choices that a line names."""


class Unanswered(click.ClickException):
    """A question that nobody is there to answer. Like any other missing option it ends with exit code 2."""

    exit_code = 2


class Questions:
    """The answers that are given as options, and whoever sits at the terminal."""

    def __init__(self, given: Mapping[str, str | None], *, on_terminal: bool | None = None) -> None:
        """`given` are the values of options, by their names without dashes; None where there is none."""
        self._given = given
        self._used: set[str] = set()
        self._on_terminal = sys.stdin.isatty() if on_terminal is None else on_terminal

    def given(self, option: str) -> str | None:
        """What the option says, if it is there."""
        self._used.add(option)
        return self._given[option]

    @property
    def unused(self) -> list[str]:
        """Options that are given, and that nothing has asked for: the data, or the model, are not of their kind."""
        return [option for option, value in self._given.items() if value is not None and option not in self._used]

    def ask(self, option: str, what: str, choices: Sequence[str] = (), usual: str | None = None) -> str:
        """The answer to what `--option` answers: given, or from the terminal.

        `choices` are all answers that there are, unless there is none. `usual` is what the terminal suggests.

        Raises:
            Unanswered: nobody is there to ask.
            ConfigurationError: the option's value is not one of the choices.
        """
        value = self.given(option)
        if value is None:
            if not self._on_terminal:
                raise Unanswered(f"say {what} with --{option}{_one_of(choices)}")
            kind = click.Choice(list(choices)) if choices else None
            value = str(click.prompt(what[0].upper() + what[1:], default=usual, type=kind, err=True)).strip()
        if choices and value not in choices:
            raise ConfigurationError(f"--{option} {value!r}: it is none of {_shown(choices)}")
        return value

    def choose(self, what: str, choices: Sequence[str], option: Callable[[str], str]) -> str:
        """One of the choices, for which `option` says what to type. Raises as `ask` does."""
        if not self._on_terminal:
            raise Unanswered(f"say {what}: {' or '.join(map(option, choices[:_SHOWN]))}")
        return str(click.prompt(f"{what[0].upper()}{what[1:]}", type=click.Choice(list(choices)), err=True))


def _one_of(choices: Sequence[str]) -> str:
    return f" (one of: {_shown(choices)})" if choices else ""


def _shown(choices: Sequence[str]) -> str:
    return ", ".join(choices[:_SHOWN]) + (", ..." if len(choices) > _SHOWN else "")
