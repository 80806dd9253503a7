"""Join tokens survive being copied, and nothing else is taken for one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from fedprune.errors import ConfigurationError
from fedprune.identity.device_commands import enroll
from fedprune.identity.gateway import init_gateway
from fedprune.identity.settings import GatewaySettings
from fedprune.identity.token import MOST_CHARACTERS, JoinToken, format_token, parse_token

TOKEN = JoinToken("pi-1", ("gateway.local", "192.168.1.10", "fe80::1"), 8884, bytes(range(16)), bytes(range(12)))


def test_a_token_says_where_the_gateway_is_and_fits_on_a_line() -> None:
    assert parse_token(f" {format_token(TOKEN)}\n") == TOKEN
    assert len(format_token(TOKEN)) < 120


@pytest.mark.parametrize(("name", "said"), [("fedprune-check-1", "plays it"), ("aggregator.x", "use 1 to 64 letters")])
def test_a_name_that_means_somebody_else_cannot_be_invited(tmp_path: Path, name: str, said: str) -> None:
    init_gateway(tmp_path, GatewaySettings(("127.0.0.1",)), datetime.now(UTC))
    failure = CliRunner().invoke(enroll, [name, "--dir", str(tmp_path)]).exception
    assert isinstance(failure, ConfigurationError)
    assert said in str(failure)


@pytest.mark.parametrize(("options", "command"), [((), "fedprune join"), (("--gateway",), "fedprune gateway join")])
def test_what_is_printed_joins_where_it_is_typed(tmp_path: Path, options: tuple[str, ...], command: str) -> None:
    init_gateway(tmp_path, GatewaySettings(("127.0.0.1",)), datetime.now(UTC))

    line = CliRunner().invoke(enroll, ["north", "--dir", str(tmp_path), *options]).output

    words, token = line.rstrip().rsplit(" ", 1)
    assert words == command
    assert parse_token(token).name == "north"


def test_a_secret_is_not_shown_where_a_token_is() -> None:
    assert TOKEN.secret.hex() not in repr(TOKEN)
    assert repr(TOKEN.secret) not in repr(TOKEN)


@given(st.integers(0, len(format_token(TOKEN)) - 1), st.characters(codec="utf-8"))
@example(len(format_token(TOKEN)) - 1, chr(ord(format_token(TOKEN)[-1]) + 1))
def test_a_letter_that_is_wrong_is_noticed(place: int, letter: str) -> None:
    text = format_token(TOKEN)
    changed = text[:place] + letter + text[place + 1 :]
    if changed.strip() != text:
        with pytest.raises(ConfigurationError) as caught:
            parse_token(changed)
        assert text[10:40] not in str(caught.value)


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_token_that_is_cut_off_is_told_from_none(cut: int) -> None:
    with pytest.raises(ConfigurationError, match="the join token is damaged: copy it whole"):
        parse_token(format_token(TOKEN)[:-cut])


@given(st.text() | st.text().map(lambda text: f"fpj1.{text}"))
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="join token"):
        parse_token(text)


def test_a_token_without_end_is_not_read() -> None:
    with pytest.raises(ConfigurationError, match="this is no join token"):
        parse_token("fpj1." + "A" * MOST_CHARACTERS)


@pytest.mark.parametrize(
    "changes",
    [{"name": "pi/1"}, {"hosts": ()}, {"hosts": ("a b",)}, {"hosts": ("gateway",) * 9}, {"port": 0}],
    ids=str,
)
def test_a_token_whose_words_cannot_be_used_is_refused(changes: dict[str, object]) -> None:
    token = JoinToken(
        **{"name": "pi-1", "hosts": ("gateway",), "port": 1, "fingerprint": bytes(16), "secret": bytes(12)} | changes
    )  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"says nothing that can be used|use 1 to 64 letters"):
        parse_token(format_token(token))
