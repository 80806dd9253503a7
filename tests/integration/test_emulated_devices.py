"""Devices of other processors, emulated, with the agent's package installed by dpkg; gateway and broker are this
machine's.

systemd is not the first process there: what the unit would start is started as its user.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.debian.armhf import FROM_DEBIAN
from fedprune.identity.certificates import fingerprint
from fedprune.identity.enrolment import Enrolment
from fedprune.identity.enrolment_server import EnrolmentServer
from fedprune.identity.gateway import Gateway, init_gateway
from fedprune.identity.settings import GatewaySettings
from fedprune.identity.token import FINGERPRINT_BYTES, JoinToken, format_token, new_secret
from tests.brokers import MISSING, Mosquitto, free_port, make_password_file
from tests.certificates import MISSING as NO_CERTIFICATES
from tests.certificates import Authority
from tests.chroots import Chroot, make_chroot
from tests.emulation import UnavailableError
from tests.packages import AGENT, GATEWAY, built, install, version_of
from tests.processes import Child, run, toml
from tests.secured import SecuredGateway
from tests.served import served

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING or NO_CERTIFICATES), reason=MISSING or NO_CERTIFICATES)]

_PACKAGES = ("python3", "adduser")
_SYSTEMS = {
    "bookworm-armhf": ("arm", (*_PACKAGES, *FROM_DEBIAN.values())),
    "bookworm-arm64": ("aarch64", _PACKAGES),
}
_RUNTIMES = {"bookworm-armhf": "tflite-runtime", "bookworm-arm64": "ai-edge-litert"}
_STATE = f"var/lib/{AGENT}"
_ROUNDS = {"count": 10_000, "quorum": 1.0, "deadline_s": 600.0, "gather_s": 600.0}
_LONG_AGO = timedelta(days=8 * 365)
"""Certificates of that time are due to be renewed."""


@pytest.fixture(params=list(_SYSTEMS))
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Chroot:
    machine, packages = _SYSTEMS[request.param]
    cache = Path(request.config.cache.mkdir("chroots"))
    try:
        return make_chroot(request.param, machine, packages, tmp_path / "root", cache)
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def packages(request: pytest.FixtureRequest, device: Chroot) -> dict[str, Path]:
    return built(device.name, Path(request.config.cache.mkdir("deb")))


@pytest.fixture
def digits(packages: dict[str, Path], device: Chroot, tmp_path: Path) -> Path:
    """A directory with the task that comes with the gateway's package, the data that come with the agent's, and the
    package itself installed on the device."""
    install(device, packages[AGENT])
    name = "./usr/share/fedprune-gateway/digits.fedtask"
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", packages[GATEWAY]], stdout=subprocess.PIPE) as archive:
        unpack = ["tar", "--extract", "--directory", tmp_path, "--strip-components=4", name]
        subprocess.run(unpack, stdin=archive.stdout, check=True)
    shutil.copy(device.root / "usr/share/fedprune-agent/digits.npz", tmp_path)
    return tmp_path


def test_it_learns_over_a_broker_with_password_and_tls_measures_the_model_upgrades_and_leaves_nothing(
    device: Chroot, packages: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = device.snapshot()
    request.getfixturevalue("digits")
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.issue("broker", host="IP:127.0.0.1")
    make_password_file(tmp_path / "passwords", "fleet", "sesame")
    secured = (f"certfile {certificate}", f"keyfile {key}", "allow_anonymous false")
    (tmp_path / "broker").mkdir()
    with Mosquitto(tmp_path / "broker", *secured, f"password_file {tmp_path / 'passwords'}") as broker:
        url = broker.url.replace("mqtt:", "mqtts:")
        login = {"url": url, "username": "fleet", "password_file": "password", "tls": {"ca": "ca.pem"}}
        (tmp_path / "password").write_text("sesame\n")
        shutil.copy(authority.ca, tmp_path / "ca.pem")
        own = {"name": "pi-1", "data": "/usr/share/fedprune-agent/digits.npz", "broker": login}
        (tmp_path / "agent.toml").write_text(toml(own))
        given = device.put(*(tmp_path / name for name in ("agent.toml", "password", "ca.pem")))
        device.run("install", "--owner", AGENT, "--mode", "600", *given, f"/{_STATE}")
        federation = {"task": "digits.fedtask", "state": "run", "held_out": "digits.npz", "broker": login}
        (tmp_path / "federation.toml").write_text(toml(federation | {"rounds": _ROUNDS | {"cohort": 1}}))
        with (
            Child("aggregator", tmp_path / "federation.toml", "--json") as aggregator,
            device.service("fedprune-agent.service") as agent,
        ):
            assert aggregator.reports()["agents"] == 1
            agent.interrupt(signal.SIGTERM)
            assert agent.ends() == 0, agent.stderr
    code, said = run("export", tmp_path / "run", "--formats", "fp32,int8")
    assert code == 0, said
    models = device.put(*(tmp_path / "run" / "export" / f"{form}.tflite" for form in ("fp32", "int8")))
    options = ("--num_runs", "3", "--warmup_runs", "1", "--json", "-")
    report = json.loads(device.run("fedprune", "benchmark", *options, *models).stdout)
    assert report["runtime"].split()[0] == _RUNTIMES[device.name]
    assert all(row["latency_ms"]["p50"] > 0 for row in report["models"])
    memory = (device.root / _STATE / "agent-state" / "agent.json").read_bytes()
    install(device, version_of(packages[AGENT], lambda _: None, tmp_path))
    assert (device.root / _STATE / "agent-state" / "agent.json").read_bytes() == memory
    device.run("dpkg", "--purge", AGENT)
    after = device.snapshot()
    assert (after - before, before - after) == (set(), set())


def test_it_joins_with_a_token_renews_its_certificate_and_is_shut_out_while_others_stay(
    device: Chroot, digits: Path
) -> None:
    then = datetime.now(UTC) - _LONG_AGO
    settings = GatewaySettings(("127.0.0.1",), broker_port=free_port(), enrolment_port=free_port())
    made = init_gateway(digits / "gateway", settings, then)
    gateway = SecuredGateway(made.path, settings.broker_port, settings.enrolment_port)
    with served(
        EnrolmentServer(
            settings.enrolment_port, made.enrolment_files, Enrolment(made, lambda: 0.0, lambda: then).answer
        )
    ):
        device.run("fedprune", "join", invited(made, "pi-1", then))
    config = digits / "federation.toml"
    config.write_text(toml({"task": "digits.fedtask", "rounds": _ROUNDS | {"cohort": 2}}))
    code, said = run("gateway", "queue", "add", "--dir", gateway.path, "--config", config)
    assert code == 0, said
    certificate = device.root / _STATE / "device.pem"
    former = certificate.read_bytes()
    with gateway.broker() as broker, gateway.endpoint() as endpoint:
        directory = digits / "pi-2"
        code, said = run("join", gateway.enrol("pi-2"), "--dir", directory, "--data", digits / "digits.npz")
        assert code == 0, said
        own = directory / "agent.toml"
        own.write_text(f'trainer = "litert"\n{own.read_text()}')
        with device.service("fedprune-agent.service") as agent, Child("agent", "--config", own) as bystander:
            agent.says("the certificate is renewed")
            endpoint.says("federation 1, round     1/10000: 2 agents", "stdout")
            assert certificate.read_bytes() != former
            began = time.monotonic()
            assert gateway.revoke("pi-1") == "pi-1 is revoked; it is off the broker\n"
            broker.says("Client pi-1 already connected, closing old connection")
            agent.says("device.pem is revoked (")
            print(f"{device.name}: off the broker {time.monotonic() - began:.1f} s after it was to be")
            assert "lost" not in bystander.stderr
            agent.interrupt(signal.SIGTERM)
            assert agent.ends() == 0, agent.stderr


def invited(gateway: Gateway, name: str, now: datetime) -> str:
    """The token of a device that is invited at that time."""
    digest = fingerprint(gateway.authority.certificate)[:FINGERPRINT_BYTES]
    token = JoinToken(name, ("127.0.0.1",), gateway.settings.enrolment_port, digest, new_secret())
    gateway.devices.invite(name, token.secret, int(now.timestamp()) + 3600)
    return format_token(token)
