"""Clocks that say 2000 or 2040: each command says so, dates are checked all the same, and what waits goes on once the
clock is right. A Pi has no clock of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedprune.identity.audit import Client
from fedprune.identity.gateway import open_gateway
from fedprune.identity.renewal import renew_gateway
from fedprune.wire.topics import Topics
from tests.brokers import MISSING
from tests.clocks import MISSING as NO_COMPILER
from tests.clocks import WrongClock
from tests.federations import NAME, Site
from tests.patience import PATIENCE_S
from tests.processes import FEDPRUNE, Child, run
from tests.secured import SecuredGateway

pytestmark = pytest.mark.skipif(bool(MISSING or NO_COMPILER), reason=MISSING or NO_COMPILER)

CONFIGURATION, BROKER = 3, 6
SAYS = {
    2000: "its certificate is not yet valid: this device's clock says 2000-01-01 UTC",
    2040: "its certificate has expired: this device's clock says 2040-01-01 UTC",
}


@pytest.fixture
def gateway(tmp_path: Path) -> SecuredGateway:
    return SecuredGateway.made(tmp_path / "gateway")


@pytest.fixture
def clock(tmp_path: Path) -> WrongClock:
    return WrongClock(tmp_path / "clock")


@pytest.fixture
def config(tmp_path: Path, tiny_task: Path, gateway: SecuredGateway) -> Path:
    """The agent.toml of a device that has joined."""
    site = Site(tmp_path, "", tiny_task)
    site.agent("pi-1")
    with gateway.endpoint():
        code, said = run("join", gateway.enrol("pi-1"), "--dir", tmp_path / "pi-1", "--data", tmp_path / "pi-1.npz")
    assert code == 0, said
    config = tmp_path / "pi-1" / "agent.toml"
    config.write_text(f'trainer = "litert"\n{config.read_text()}')
    return config


@pytest.mark.parametrize("year", SAYS)
def test_an_agent_that_starts_with_a_wrong_clock_says_so_once_and_waits_for_the_time(
    year: int, gateway: SecuredGateway, config: Path, clock: WrongClock
) -> None:
    clock.set_to(year)
    with Child("agent", "--config", config, env=clock.env) as agent:
        agent.says("Connection refused")  # its gateway starts later, and what is wrong then is told too
        with gateway.broker() as broker:
            agent.says(SAYS[year])
            for _ in range(2):
                broker.says("New connection from")
            clock.set_right()
            agent.says("connected; waiting for work")
    assert agent.stderr.count("clock says") == 1


def test_an_agent_whose_clock_runs_ahead_says_so_at_its_next_connection_and_waits_for_the_time(
    gateway: SecuredGateway, config: Path, clock: WrongClock
) -> None:
    with Child("agent", "--config", config, env=clock.env) as agent:
        with gateway.broker():
            agent.says("connected; waiting for work")
            clock.set_to(2040)
        agent.says("connection to the broker lost")
        with gateway.broker() as broker:
            agent.says(SAYS[2040])
            for _ in range(2):
                broker.says("New connection from")
            clock.set_right()
            agent.says("connected; waiting for work")
    assert agent.stderr.count("clock says") == 1


@pytest.mark.parametrize("year", SAYS)
def test_a_device_that_joins_with_a_wrong_clock_is_told_and_its_token_is_good_still(
    year: int, tmp_path: Path, gateway: SecuredGateway, clock: WrongClock
) -> None:
    token = gateway.enrol("pi-1")
    clock.set_to(year)
    with gateway.endpoint():
        code, said = run("join", token, "--dir", tmp_path / "device", env=clock.env)
        assert code == BROKER, said
        assert f"{SAYS[year]}; nothing secret was sent. If the clock is wrong, here or at the gateway, set it" in said
        clock.set_right()
        assert run("join", token, "--dir", tmp_path / "device", env=clock.env)[0] == 0


@pytest.mark.parametrize(
    ("year", "told"),
    [
        (2000, r"2000-01-01 \d\d:\d\d UTC, which is past: fedprune was installed on"),
        (2040, r"2040-01-01 \d\d:\d\d UTC, and fedprune was installed on"),
    ],
)
def test_the_doctor_names_a_wrong_clock_and_every_certificate_that_is_out_of_date_by_it(
    year: int, told: str, gateway: SecuredGateway, config: Path, clock: WrongClock
) -> None:
    clock.set_to(year)
    with gateway.broker():
        done = subprocess.run(
            [*FEDPRUNE, "doctor", "--json", config],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, **clock.env},
            timeout=PATIENCE_S,
            check=False,
        )
    rows = json.loads(done.stdout)
    told_of = {row["check"]: row for row in rows}
    assert re.search(told, told_of["clock"]["told"])
    assert SAYS[year] in told_of["TLS"]["told"]
    assert all("set the clock" in told_of[check]["mending"] for check in ("clock", "certificate"))


def test_what_a_gateway_renews_while_its_clock_is_ahead_is_good_once_the_clock_is_right(
    gateway: SecuredGateway,
) -> None:
    opened = open_gateway(gateway.path)
    assert renew_gateway(opened, datetime(2040, 1, 1, tzinfo=UTC))
    with gateway.broker(), Client(gateway.client(), Topics(NAME).aggregator_client):
        pass


def test_a_gateway_is_not_made_and_nobody_invited_by_a_clock_that_is_certainly_wrong(
    tmp_path: Path, gateway: SecuredGateway, clock: WrongClock
) -> None:
    clock.set_to(2000)
    for command in (
        ("gateway", "init", "127.0.0.1", "--dir", tmp_path / "other"),
        ("enroll", "pi-1", "--dir", gateway.path),
    ):
        code, said = run(*command, env=clock.env)
        assert code == CONFIGURATION, said
        assert re.search(r"this machine's clock: it says 2000-01-01 \d\d:\d\d UTC, which is past", said)
    assert not (tmp_path / "other" / "ca.pem").exists()


def test_a_command_at_the_gateway_does_not_wait_for_the_time(gateway: SecuredGateway, clock: WrongClock) -> None:
    gateway.enrol("pi-1")
    clock.set_to(2040)
    with gateway.broker():
        code, said = run("revoke", "pi-1", "--dir", gateway.path, env=clock.env)
    assert code == BROKER, said
    assert SAYS[2040] in said
