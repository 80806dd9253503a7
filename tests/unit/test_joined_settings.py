"""An agent.toml that leaves to another file what joining a gateway wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.settings import AgentSettings, load_settings
from fedprune.errors import ConfigurationError

_JOINED = """\
name = "pi-1"
federation = "greenhouse"
data = "data.npz"
authentication_key = "authentication.key"
gateway = "gateway.json"

[broker]
url = "mqtts://gateway.local:8883"
tls.ca = "ca.pem"
"""


def _settings(tmp_path: Path, text: str) -> AgentSettings:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "agent.toml").write_text(text)
    return load_settings(tmp_path / "etc" / "agent.toml")


def test_it_has_from_there_what_it_does_not_say_with_the_files_that_lie_there(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "agent.toml").write_text(_JOINED)
    settings = _settings(tmp_path, f'joined = "{state}/agent.toml"\ndata = "mine"\nthreads = 3\n')
    assert (settings.name, settings.federation, settings.threads) == ("pi-1", "greenhouse", 3)
    assert settings.data == "mine"
    assert settings.state == str(state / "agent-state")
    assert settings.gateway == str(state / "gateway.json")
    assert settings.authentication_key == str(state / "authentication.key")
    assert (settings.broker.url, settings.broker.tls.ca) == ("mqtts://gateway.local:8883", str(state / "ca.pem"))


def test_a_device_that_has_not_joined_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"has yet to join: `fedprune join TOKEN`"):
        _settings(tmp_path, 'joined = "../nowhere/agent.toml"\n')


def test_what_is_wrong_there_is_named_with_that_file(tmp_path: Path) -> None:
    (tmp_path / "joined.toml").write_text(_JOINED.replace("federation", "federatoin"))
    with pytest.raises(ConfigurationError, match=r"joined\.toml: key 'federatoin' unknown"):
        _settings(tmp_path, 'joined = "../joined.toml"\n')


def test_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="joined: expected the name of a file"):
        _settings(tmp_path, "joined = 3\n")
