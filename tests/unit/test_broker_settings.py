"""The [broker] table: addresses, files, passwords."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from fedprune.config import from_table, override
from fedprune.errors import ConfigurationError
from fedprune.wire.broker import PASSWORD_VARIABLE, Broker, Tls
from fedprune.wire.transfer import CHUNK_SIZES


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A configuration file with nothing else in it."""

    broker: Broker = Broker()


@pytest.mark.parametrize(
    ("url", "host", "port", "uses_tls"),
    [
        ("mqtt://gateway", "gateway", 1883, False),
        ("mqtts://gateway", "gateway", 8883, True),
        ("mqtt://10.0.0.7:1884/", "10.0.0.7", 1884, False),
        ("mqtts://[::1]:8884", "::1", 8884, True),
    ],
)
def test_addresses(url: str, host: str, port: int, uses_tls: bool) -> None:
    broker = Broker(url=url)

    assert (broker.host, broker.port, broker.uses_tls) == (host, port, uses_tls)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "gateway",
        "gateway:1883",
        "http://gateway",
        "mqtt://",
        "mqtt://:1883",
        "mqtt://gateway/path",
        "mqtt://[::1",
        *(f"mqtt://gateway:{port}" for port in ("b", "70000", "-1", "0")),
    ],
)
def test_what_is_no_address_is_refused_with_the_form_of_one(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"broker: .*(write mqtt://HOST|IPv6)"):
        from_table({"broker": {"url": url}}, _File, "agent.toml")


def test_secrets_do_not_belong_into_addresses() -> None:
    with pytest.raises(ConfigurationError, match=r"put the user name in broker\.username, the password in a file"):
        from_table({"broker": {"url": "mqtt://pi:secret@gateway"}}, _File, "agent.toml")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"password_file": "password"}, "broker.password_file needs broker.username"),
        ({"tls": {"ca": "ca.pem"}}, "broker.tls is for mqtts:// addresses"),
        ({"url": "mqtts://gateway", "tls": {"key": "key.pem"}}, "broker.tls.key needs broker.tls.certificate"),
    ],
)
def test_settings_that_would_be_without_effect_are_refused(table: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_table({"broker": table}, _File, "agent.toml")
    assert said in str(caught.value)


def test_files_are_found_from_where_the_configuration_is(tmp_path: Path) -> None:
    tls = Tls(ca="ca.pem", certificate="/etc/pi.pem")
    broker = Broker("mqtts://gateway", "pi-1", password_file="password", tls=tls).relative_to(tmp_path)

    assert broker.password_file == str(tmp_path / "password")
    assert broker.tls == Tls(ca=str(tmp_path / "ca.pem"), certificate="/etc/pi.pem", key=None)


def test_a_password_is_the_first_line_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "from the environment")
    (tmp_path / "password").write_text("pässword\n# from the vault\n", "utf-8")

    assert Broker(username="pi-1", password_file=str(tmp_path / "password")).password() == "pässword"
    assert Broker().password() == "from the environment"


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\r"])
def test_a_password_may_be_written_with_notepad(tmp_path: Path, end: str) -> None:
    """Which puts a byte order mark first, and ends lines in its own way."""
    (tmp_path / "password").write_bytes(f"\ufeffpässword{end}".encode())

    assert Broker(username="pi-1", password_file=str(tmp_path / "password")).password() == "pässword"


def test_a_password_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"\xff\xfe\xfd")
    for name, reason in (("missing", "No such file"), ("noise", "not text in UTF-8"), (".", "Is a directory")):
        with pytest.raises(ConfigurationError, match=rf"broker\.password_file .*: {reason}"):
            Broker(username="pi-1", password_file=str(tmp_path / name)).password()


def test_an_option_overrides_one_key_of_a_section() -> None:
    table = {"broker": {"username": "pi-1", "url": "mqtt://old"}}
    override(table, "broker", "url", "mqtt://new")
    empty: dict[str, object] = {}
    override(empty, "broker", "url", "mqtt://new")

    assert from_table(table, _File, "").broker == Broker(url="mqtt://new", username="pi-1")
    assert from_table(empty, _File, "").broker == Broker(url="mqtt://new")


def test_a_section_that_is_none_is_refused_not_overridden() -> None:
    table = {"broker": "mqtt://gateway"}
    override(table, "broker", "url", "mqtt://new")

    with pytest.raises(ConfigurationError, match="broker: expected `object`, got `str`"):
        from_table(table, _File, "agent.toml")


def test_a_broker_may_have_several_addresses_of_one_kind() -> None:
    broker = Broker(url="mqtt://a", fallbacks=("mqtt://b:1884", "mqtt://c"), username="pi")

    assert [(each.host, each.port, each.username) for each in broker.addresses] == [
        ("a", 1883, "pi"),
        ("b", 1884, "pi"),
        ("c", 1883, "pi"),
    ]
    with pytest.raises(ConfigurationError, match=r"all addresses must be mqtt://, or all mqtts://"):
        from_table({"broker": {"url": "mqtt://a", "fallbacks": ["mqtts://b"]}}, _File, "agent.toml")
    with pytest.raises(ConfigurationError, match=r"write mqtt://HOST"):
        from_table({"broker": {"url": "mqtt://a", "fallbacks": ["b"]}}, _File, "agent.toml")


def test_chunks_are_no_larger_than_the_messages_that_a_broker_takes() -> None:
    assert Broker().chunk_bytes == CHUNK_SIZES[0]
    assert [Broker(max_message_bytes=most).chunk_bytes for most in (131_072, 100_000, 16_000, 15_000, 2172)] == [
        *CHUNK_SIZES[:1],
        *[CHUNK_SIZES[1]] * 2,
        *[CHUNK_SIZES[2]] * 2,
    ]
    with pytest.raises(ConfigurationError, match=r"max_message_bytes"):
        from_table({"broker": {"max_message_bytes": 2171}}, _File, "agent.toml")
