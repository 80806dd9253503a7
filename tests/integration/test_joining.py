"""A device joins with one token and takes part; nobody else gets in, and who is revoked is out."""

from __future__ import annotations

import dataclasses
import queue
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.doctor import examine
from edge_agent.settings import load_settings
from fedprune.doctor.finding import Verdict
from fedprune.errors import BrokerError, ProtocolError
from fedprune.identity.asking import GatewayUnproven
from fedprune.identity.audit import Client
from fedprune.identity.certificates import fingerprint
from fedprune.identity.enrolment import Answer, Enrolled, Enrolment
from fedprune.identity.enrolment_server import EnrolmentServer
from fedprune.identity.gateway import AGGREGATOR, init_gateway, open_gateway
from fedprune.identity.joining import join_gateway
from fedprune.identity.revocation import BrokerState, revoke
from fedprune.identity.settings import GatewaySettings
from fedprune.identity.token import FINGERPRINT_BYTES, JoinToken, format_token, new_secret, parse_token
from fedprune.system.disk import Directory
from fedprune.wire.authentication import read_key, verified
from fedprune.wire.link import Delivery
from fedprune.wire.messages import encode
from fedprune.wire.topics import Topics
from fedprune.wire.transport import MqttLink
from tests.brokers import MISSING, free_port
from tests.federations import NAME, Site
from tests.processes import Child, run, until
from tests.samples import assignment
from tests.secured import SecuredGateway, made_long_ago
from tests.served import served

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

BROKER = 6
TOPICS = Topics(NAME)


@pytest.fixture
def gateway(tmp_path: Path) -> SecuredGateway:
    return SecuredGateway.made(tmp_path / "gateway")


def join(gateway: SecuredGateway, site: Site, name: str) -> Path:
    """The agent.toml of a device that has joined, with data of its own."""
    return join_with(gateway.enrol(name), site, name)


def join_with(token: str, site: Site, name: str) -> Path:
    """The same, with a token. TensorFlow would take the agent seconds to load."""
    site.agent(name)
    directory = site.path / f"device-{name}"
    code, said = run("join", token, "--dir", directory, "--data", site.path / f"{name}.npz")
    assert code == 0, said
    config = directory / "agent.toml"
    if "trainer" not in config.read_text():
        config.write_text(f'trainer = "litert"\n{config.read_text()}')
    return config


def test_devices_that_have_joined_train_together_over_client_certificates(
    tmp_path: Path, tiny_task: Path, gateway: SecuredGateway
) -> None:
    site = Site(tmp_path, f"mqtts://127.0.0.1:{gateway.broker_port}", tiny_task)
    tls = {name: str(gateway.path / file) for name, file in _AGGREGATORS_FILES.items()}
    rounds = {"count": 2, "cohort": 2, "quorum": 1.0, "deadline_s": 300.0, "gather_s": 300.0}
    federation = site.federation("run", broker={"url": site.url, "tls": tls}, rounds=rounds, gateway=str(gateway.path))
    with gateway.broker(), gateway.endpoint() as endpoint:
        agents = [join(gateway, site, name) for name in ("pi-1", "pi-2")]
        endpoint.says("pi-1 joined, from 127.0.0.1")
        endpoint.says("pi-2 joined, from 127.0.0.1")
        with Child("aggregator", federation, "--json") as aggregator:
            aggregator.says("waiting for")
            found = {finding.check: finding for finding in examine(agents[0], datetime.now(UTC))}
            assert not [finding.line for finding in found.values() if finding.verdict is Verdict.FAILED]
            assert found["access list"].told == "pi-1 publishes, and the aggregator's answer comes back"
            assert found["protocol"].verdict is Verdict.OK  # the answer had the code of the key that both sides share
            with Child("agent", "--config", agents[0]), Child("agent", "--config", agents[1]):
                assert [aggregator.reports()["agents"] for _ in range(2)] == [2, 2]
                assert aggregator.ends() == 0
    for agent in agents:
        assert stat.S_IMODE((agent.parent / "device.key").stat().st_mode) == 0o600


_AGGREGATORS_FILES = {"ca": "ca.pem", "certificate": "aggregator.pem", "key": "aggregator.key"}


def test_a_device_that_is_revoked_is_off_the_broker_and_others_stay(
    tmp_path: Path, tiny_task: Path, gateway: SecuredGateway
) -> None:
    site = Site(tmp_path, f"mqtts://127.0.0.1:{gateway.broker_port}", tiny_task)
    with gateway.broker() as broker, gateway.endpoint():
        captured, other = (join(gateway, site, name) for name in ("pi-1", "pi-2"))
        with Child("agent", "--config", captured) as agent, Child("agent", "--config", other) as bystander:
            agent.says("connected")
            bystander.says("connected")
            with Client(gateway.client(), TOPICS.aggregator_client) as rogue_broker:

                def is_found_out() -> bool:
                    """Who is connected may not have subscribed yet."""
                    rogue_broker.publish(TOPICS.down("pi-1", "assignment"), encode(assignment()))
                    return "it is not authentic: who sent it lacks the device's key" in agent.stderr

                until(is_found_out, "the agent says that the work is not authentic")
            assert gateway.revoke("pi-1") == "pi-1 is revoked; it is off the broker\n"
            broker.says("Client pi-1 already connected, closing old connection")
            agent.says("device.pem is revoked (")
            assert "lost" not in bystander.stderr
        code, tried, _ = gateway.check()
        assert (code, [what for what, row in tried.items() if not row["is_right"]]) == (0, [])
        assert "user pi-1\ntopic deny #\n" in (gateway.path / "access-list").read_text()
        # Enrolled anew it has another key, and the old one stays shut out.
        key = (captured.parent / "device.key").read_bytes()
        for name in ("pem", "key"):
            (gateway.path / f"old.{name}").write_bytes((captured.parent / f"device.{name}").read_bytes())
        captured.write_text(captured.read_text() + "# the owner's\n")
        join(gateway, site, "pi-1")
        assert captured.read_text().endswith("# the owner's\n")
        assert (captured.parent / "device.key").read_bytes() != key
        assert "topic deny #" not in (gateway.path / "access-list").read_text()
        with Child("agent", "--config", captured) as agent:
            agent.says("connected")
        with (
            pytest.raises(BrokerError, match="is revoked"),
            Client(gateway.client("old"), TOPICS.agent_client("pi-1")),
        ):
            pass


def test_an_agent_that_runs_while_its_device_joins_anew_speaks_with_the_new_key(
    tmp_path: Path, tiny_task: Path, gateway: SecuredGateway
) -> None:
    site, topic = Site(tmp_path, f"mqtts://127.0.0.1:{gateway.broker_port}", tiny_task), TOPICS.up("pi-1", "check-in")
    with gateway.broker(), gateway.endpoint():
        config = join(gateway, site, "pi-1")
        with Child("agent", "--config", config) as agent:
            agent.says("connected")
            gateway.revoke("pi-1")
            agent.says("device.pem is revoked (")
            with Client(gateway.client(), TOPICS.aggregator_client) as aggregator:
                aggregator.subscribe(topic)
                aggregator.subscribe(TOPICS.round)
                aggregator.until(b"in force", lambda: aggregator.publish(TOPICS.round, b"in force"))
                join(gateway, site, "pi-1")
                heard: list[Delivery] = []
                while not heard:
                    found = aggregator.until(b"so far", lambda: aggregator.publish(TOPICS.round, b"so far"))
                    heard = [delivery for delivery in found if delivery.topic == topic]
    verified(read_key(config.parent / "authentication.key"), topic, heard[0].payload)


def test_a_broker_that_does_not_read_its_revocation_list_is_told_and_the_device_has_no_rights(
    tmp_path: Path, tiny_task: Path, gateway: SecuredGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.change("mosquitto.conf", "crlfile ", "# crlfile ")
    site = Site(tmp_path, f"mqtts://127.0.0.1:{gateway.broker_port}", tiny_task)
    monkeypatch.setattr("fedprune.identity.revocation._RELOAD_S", 0.5)
    with gateway.broker(), gateway.endpoint():
        for name in ("pi-1", "pi-2"):
            directory = join(gateway, site, name).parent
            for kind in ("pem", "key"):
                (gateway.path / f"{name}.{kind}").write_bytes((directory / f"device.{kind}").read_bytes())
        assert revoke(open_gateway(gateway.path), "pi-1", datetime.now(UTC)) is BrokerState.DEAF
        with (
            Client(gateway.client(), TOPICS.aggregator_client) as aggregator,
            MqttLink(gateway.client("pi-1"), TOPICS.agent_client("pi-1"), queue.SimpleQueue()) as captured,
            Client(gateway.client("pi-2"), TOPICS.agent_client("pi-2")) as other,
        ):
            aggregator.subscribe(TOPICS.all_up)
            aggregator.subscribe(TOPICS.round)
            aggregator.until(b"in force", lambda: aggregator.publish(TOPICS.round, b"in force"))
            captured.publish(TOPICS.up("pi-1", "check-in"), b"captured")
            captured.drain()
            heard = aggregator.until(b"other", lambda: other.publish(TOPICS.up("pi-2", "check-in"), b"other"))
            assert b"captured" not in {delivery.payload for delivery in heard}


def test_a_broker_whose_process_is_not_found_is_not_said_to_be_off(gateway: SecuredGateway) -> None:
    """As in a container: it listens, and goes on with its old lists."""
    gateway.enrol("pi-1")
    with gateway.broker():
        (gateway.path / "mosquitto.pid").unlink()
        said = gateway.revoke("pi-1")
    assert said.startswith("pi-1 is revoked; what listens at the broker's port could not be told")
    assert "until then the device stays connected" in said


def test_a_broker_that_cannot_be_told_of_a_device_that_comes_back_is_told_to_a_person(
    tmp_path: Path, gateway: SecuredGateway
) -> None:
    with gateway.broker(), gateway.endpoint() as endpoint:
        assert run("join", gateway.enrol("pi-1"), "--dir", tmp_path / "first")[0] == 0
        gateway.revoke("pi-1")
        (gateway.path / "mosquitto.pid").unlink()
        assert run("join", gateway.enrol("pi-1"), "--dir", tmp_path / "second")[0] == 0
        endpoint.says("the broker goes on with its old lists and certificate (")


def test_a_name_that_nobody_has_cannot_be_revoked_and_one_that_is_in_use_not_be_invited(
    tmp_path: Path, tiny_task: Path, gateway: SecuredGateway
) -> None:
    assert run("revoke", "pi-9", "--dir", gateway.path) == (
        3,
        "fedprune: no device pi-9 was ever invited here; `fedprune enroll` invites\n",
    )
    with gateway.endpoint():
        join(gateway, Site(tmp_path, "", tiny_task), "pi-1")
    code, said = run("enroll", "pi-1", "--dir", gateway.path)
    assert code == 3
    assert "pi-1 has joined already; for another device choose another name, or revoke it first" in said
    assert gateway.revoke("pi-1") == "pi-1 is revoked; the broker does not run; it will not let it in\n"


def test_a_token_lets_one_device_in_and_the_second_is_told_on_both_sides(
    tmp_path: Path, gateway: SecuredGateway
) -> None:
    token = gateway.enrol("pi-1")
    with gateway.endpoint() as endpoint:
        assert run("join", token, "--dir", tmp_path / "first")[0] == 0
        code, said = run("join", token, "--dir", tmp_path / "second")
        assert code == BROKER
        assert said.startswith("fedprune: the gateway refuses: the token of pi-1 was used already, ")
        assert "fedprune revoke pi-1" in endpoint.says("refused 127.0.0.1: the token of pi-1 was used already, ")
        assert parse_token(token).secret.hex() not in endpoint.stderr
    assert not (tmp_path / "second" / "device.pem").exists()


def test_data_are_named_from_where_a_person_stands_and_found_from_where_agent_toml_lies(
    tmp_path: Path, gateway: SecuredGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = {"photos": str(tmp_path / "photos"), "mine.py:load": str(tmp_path / "mine.py:load"), "own.data:load": None}
    with gateway.endpoint():
        for number, (given, found) in enumerate(named.items()):
            code, said = run("join", gateway.enrol(f"pi-{number}"), "--dir", f"pi-{number}", "--data", given)
            assert code == 0, said
            assert load_settings(tmp_path / f"pi-{number}" / "agent.toml").data == (found or given)


def test_a_stranger_on_the_gateways_port_is_told_nothing(tmp_path: Path, gateway: SecuredGateway) -> None:
    """It has another authority, which the token does not mean."""
    stranger = SecuredGateway(tmp_path / "stranger", gateway.broker_port, gateway.enrolment_port)
    stranger.init()
    token = gateway.enrol("pi-1")
    with stranger.endpoint() as endpoint:
        code, said = run("join", token, "--dir", tmp_path / "device")
        assert code == BROKER
        assert "is not the gateway that made this token; nothing was sent to it" in said
        endpoint.interrupt()
        assert "refused" not in endpoint.stderr


@pytest.mark.parametrize("shown", [("gateway",), ("gateway", "stranger")], ids="+".join)
def test_a_stranger_who_shows_the_gateways_authority_is_told_nothing(
    tmp_path: Path, gateway: SecuredGateway, shown: tuple[str, ...]
) -> None:
    """Its certificate is public; a key that it certified is what the stranger lacks."""
    stranger = SecuredGateway(tmp_path / "stranger", gateway.broker_port, gateway.enrolment_port)
    stranger.init()
    asked = []

    def answer(method: str, path: str, body: bytes, *_: object) -> Answer:
        asked.append((method, path, body))
        return Answer(200, b"".join((tmp_path / whose / "ca.pem").read_bytes() for whose in shown))

    files = open_gateway(stranger.path).enrolment_files
    token = parse_token(gateway.enrol("pi-1"))
    with (
        served(EnrolmentServer(gateway.enrolment_port, files, answer)),
        pytest.raises(GatewayUnproven, match=r"nothing (secret )?was sent"),
    ):
        join_gateway(token, Directory(tmp_path / "device"))
    assert asked == [("GET", "/authority", b"")]


def test_a_device_whose_clock_is_before_everything_says_so(tmp_path: Path) -> None:
    """Here the gateway was made in the future, which is the same to the device."""
    future, port = datetime.now(UTC) + timedelta(days=1000), free_port()
    made = init_gateway(tmp_path / "gateway", GatewaySettings(("127.0.0.1",), enrolment_port=port), future)
    certificate = made.authority.certificate
    token = JoinToken("pi-1", ("127.0.0.1",), port, fingerprint(certificate)[:FINGERPRINT_BYTES], new_secret())
    server = EnrolmentServer(port, made.enrolment_files, lambda *_: Answer(200, certificate))
    with served(server):
        code, said = run("join", format_token(token), "--dir", tmp_path / "device")
    assert code == BROKER
    assert "its certificate is not yet valid: this device's clock says 2" in said
    assert said.endswith("set it, and try again\n")


def test_certificates_of_eight_years_ago_are_renewed_while_agent_and_gateway_run(
    tmp_path: Path, tiny_task: Path
) -> None:
    path = tmp_path / "gateway"
    with made_long_ago(path) as (gateway, token):
        site = Site(tmp_path, f"mqtts://127.0.0.1:{gateway.broker_port}", tiny_task)
        config = join_with(token, site, "pi-1")
    old = {file: file.read_bytes() for file in (config.parent / "device.pem", path / "broker.pem")}
    with gateway.broker() as broker:
        with gateway.endpoint() as endpoint:
            endpoint.says("renewed the gateway's own certificates")
            broker.says("Reloading config")
            with Child("agent", "--config", config) as agent:
                agent.says("connected")
                until(lambda: "the certificate is renewed" in agent.stderr, "it is renewed, which may be earlier")
        assert ssl.get_server_certificate(("127.0.0.1", gateway.broker_port)).split() == (
            (path / "broker.pem").read_text().split()
        ), "the broker shows the certificate that it was started with"
        assert all(file.read_bytes() != blob for file, blob in old.items())
        with Child("agent", "--config", config) as agent:
            agent.says("connected")
            assert "renewed" not in agent.stderr
        assert gateway.check()[0] == 0


def test_a_certificate_of_another_key_leaves_a_device_what_it_had(tmp_path: Path) -> None:
    """A gateway whose files somebody mixed up gives it, or one that answers nonsense."""
    now, port = datetime.now(UTC), free_port()
    made = init_gateway(tmp_path / "gateway", GatewaySettings(("127.0.0.1",), enrolment_port=port), now)
    enrolment = Enrolment(made, lambda: 0.0, lambda: now)
    device = Directory(tmp_path / "device")

    def token(name: str) -> JoinToken:
        found = JoinToken(
            name, ("127.0.0.1",), port, fingerprint(made.authority.certificate)[:FINGERPRINT_BYTES], new_secret()
        )
        made.devices.invite(name, found.secret, int(now.timestamp()) + 3600)
        return found

    def confuse(*asked: Any) -> Answer:
        answer = enrolment.answer(*asked)
        if asked[0] == "GET":
            return answer
        enrolled = msgspec.json.decode(answer.body, type=Enrolled)
        other = made.credentials(AGGREGATOR).certificate.decode()
        return Answer(answer.status, msgspec.json.encode(msgspec.structs.replace(enrolled, certificate=other)))

    with served(EnrolmentServer(port, made.enrolment_files, enrolment.answer)):
        join_gateway(token("pi-1"), device)
    had = {name: device.read(name) for name in device.names()}
    with (
        served(EnrolmentServer(port, made.enrolment_files, confuse)),
        pytest.raises(ProtocolError, match="a certificate that is none of this device's key"),
    ):
        join_gateway(token("pi-2"), device)

    assert {name: device.read(name) for name in had} == had


def test_the_names_of_a_token_are_tried_in_turn(tmp_path: Path, gateway: SecuredGateway) -> None:
    token = parse_token(gateway.enrol("pi-1"))
    with gateway.endpoint():
        for hosts in (("gateway.invalid", "127.0.0.1"), ("localhost",)):
            found = join_gateway(dataclasses.replace(token, hosts=hosts), Directory(tmp_path / "device"))
            assert found.broker_url == f"mqtts://{hosts[-1]}:{gateway.broker_port}"
            (tmp_path / "device" / "device.key").rename(
                tmp_path / "device" / "joining.key"
            )  # as if the answer was lost
    with pytest.raises(BrokerError, match=r"no gateway answers: 127\.0\.0\.1:\d+: Connection refused; does `fedprune"):
        join_gateway(token, Directory(tmp_path / "device"))
