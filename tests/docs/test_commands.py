"""What the documentation and the commands' own help tell people to type exists, and nothing is left unexplained."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator

import click
import pytest

from fedprune.command import cli
from tests.docs.snippets import DOCUMENTS, ROOT, commands

_CONTEXT = click.Context(cli, info_name="fedprune")


def _tree(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(_CONTEXT):
            inner = command.get_command(_CONTEXT, name)
            assert inner is not None
            yield from _tree(inner, f"{path} {name}")


_COMMANDS = dict(_tree(cli, "fedprune"))
_TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


def _shown() -> Iterator[tuple[str, str]]:
    """Every command line that a reader is shown, with where."""
    for document in DOCUMENTS:
        for line in commands(document):
            yield str(document.relative_to(ROOT)), line
    for path, command in _COMMANDS.items():
        for line in re.findall(r"(?:^|  )\s*(fedprune .+)$", command.help or "", re.MULTILINE):
            yield f"{path} --help", line


def _check(words: list[str]) -> None:
    """Raise `click.UsageError` or fail unless what `words` calls exists, with the options they give it."""
    match words:
        case ["make", target]:
            assert target in _TARGETS
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module) is not None
        case ["fedprune", *arguments]:
            _check_fedprune("fedprune", arguments)


def _check_fedprune(path: str, arguments: list[str]) -> None:
    command = _COMMANDS[path]
    default = getattr(command, "default", None)
    if default is not None and arguments and f"{path} {arguments[0]}" not in _COMMANDS:
        _check_fedprune(f"{path} {default}", arguments)
    elif isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        assert f"{path} {arguments[0]}" in _COMMANDS, f"{path} has no command {arguments[0]}"
        _check_fedprune(f"{path} {arguments[0]}", arguments[1:])
    else:
        command.make_parser(click.Context(command, parent=_CONTEXT)).parse_args(arguments)


@pytest.mark.parametrize(("where", "line"), [pytest.param(*shown, id=": ".join(shown)) for shown in _shown()])
def test_what_is_shown_can_be_typed(where: str, line: str) -> None:
    for part in re.split(r"""(?:&&|\||;)(?=(?:[^"]*"[^"]*")*[^"]*$)""", line):
        words = shlex.split(part, comments=True)
        try:
            _check(words)
        except click.UsageError as error:
            pytest.fail(f"{where} shows `{line}`: {error.format_message()}")


def test_a_wrong_option_or_command_is_found() -> None:
    with pytest.raises(click.NoSuchOption):
        _check(["fedprune", "demo", "--agent-count", "3"])
    with pytest.raises(AssertionError, match="has no command trial"):
        _check(["fedprune", "trial"])


@pytest.mark.parametrize("path", _COMMANDS)
def test_a_command_explains_itself_and_its_parameters(path: str) -> None:
    command = _COMMANDS[path]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts[0]} has no help text"
        else:
            (noun,) = re.findall(r"^\W*(\w+)", parameter.make_metavar(_CONTEXT))
            assert noun.lower() in command.help.lower(), f"{path} does not say what {noun} is"


@pytest.mark.parametrize("path", [path for path, command in _COMMANDS.items() if not isinstance(command, click.Group)])
def test_a_command_is_in_the_documentation(path: str) -> None:
    assert any(path in document.read_text() for document in DOCUMENTS)


@pytest.mark.parametrize("path", [path for path, command in _COMMANDS.items() if isinstance(command, click.Group)])
def test_a_list_of_commands_cuts_no_summary_short(path: str) -> None:
    command = _COMMANDS[path]
    context = click.Context(command, info_name=path, parent=None if command is cli else _CONTEXT)
    assert "..." not in command.get_help(context).partition("Commands:")[2]
