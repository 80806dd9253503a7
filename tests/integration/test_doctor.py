"""`fedprune doctor` names what is wrong, with real brokers and real files, and finds nothing where all is well."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edge_agent.consent import TaskFacts
from edge_agent.consent_files import ConsentFiles
from edge_agent.doctor import examine
from edge_agent.status import AgentStatus, StatusAsked, ask, telling
from fedprune.data import save_npz
from fedprune.doctor.finding import Finding, Verdict
from fedprune.system.disk import Directory
from fedprune.system.ownership import owned
from fedprune.wire.authentication import KEY_BYTES
from fedprune.wire.broker import Broker
from fedprune.wire.link import Delivery
from fedprune.wire.messages import Manifest, Reason, Rejected, encode
from fedprune.wire.topics import Topics
from fedprune.wire.transport import MqttLink
from tests.brokers import MISSING, Mosquitto, free_port, make_password_file
from tests.certificates import MISSING as NO_OPENSSL
from tests.certificates import Authority
from tests.federations import NAME, Site, examples
from tests.processes import Child, ran
from tests.samples import RUN

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)
needs_openssl = pytest.mark.skipif(bool(NO_OPENSSL), reason=NO_OPENSSL)

TOPICS = Topics(NAME)
NO_WORK = Rejected(reason=Reason.NOT_SELECTED)
PASSWORD = "as good as any"

RIGHTS = {
    "up": f"topic write {TOPICS.up('pi-1', '+')}",
    "presence": f"topic write {TOPICS.status('pi-1')}",
    "down": f"topic read {TOPICS.down('pi-1', '+')}",
    "round": f"topic read {TOPICS.round}",
    "content": f"topic read {TOPICS.all_content}",
}
ACCESS_LIST = (
    "\n".join(["user aggregator", f"topic readwrite {TOPICS.everything}", "user pi-1", *RIGHTS.values()]) + "\n"
)
"""Least rights, as docs/PROTOCOL.md has them."""


@contextmanager
def guarded(directory: Path, access_list: str = ACCESS_LIST, *settings: str) -> Iterator[Mosquitto]:
    """A broker with passwords for `pi-1` and `aggregator`, and an access list."""
    passwords, rights = directory / "passwords", directory / "rights"
    make_password_file(passwords, "pi-1", PASSWORD)
    subprocess.run(["mosquitto_passwd", "-b", passwords, "aggregator", PASSWORD], check=True, capture_output=True)
    rights.write_text(access_list)
    rights.chmod(0o600)
    passwords.chmod(0o600)
    with Mosquitto(
        directory, "allow_anonymous false", f"password_file {passwords}", f"acl_file {rights}", *settings
    ) as broker:
        yield broker


@contextmanager
def answering(broker: Broker, directory: Path, answers: Rejected = NO_WORK) -> Iterator[None]:
    """Something that does of an aggregator what a check-in gets: a manifest is retained, and work there is none."""
    password = directory / "aggregator-password"
    password.write_text(PASSWORD)
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    login = Broker(broker.url, "aggregator", str(password), broker.tls)
    with MqttLink(login, TOPICS.aggregator_client, events) as link:
        link.subscribe(TOPICS.all_up)
        manifest = Manifest(run=RUN, incarnation=1, round=0)
        link.publish(TOPICS.round, encode(manifest), retain=True)
        link.drain()

        def answer() -> None:
            while (event := events.get()) is not None:
                agent, kind = TOPICS.parse_up(event.topic) if isinstance(event, Delivery) else ("", "")
                if kind == "check-in":
                    link.publish(TOPICS.down(agent, "rejected"), encode(answers))

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        try:
            yield
        finally:
            events.put(None)
            thread.join()


@contextmanager
def told_by_an_agent(state: Path, told: AgentStatus) -> Iterator[list[bool]]:
    """Something that owns the state directory, and tells this whenever it is asked; whether each was a probe."""
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    asked: list[bool] = []

    def answer() -> None:
        while isinstance(event := events.get(), StatusAsked):
            asked.append(event.is_probe)
            event.answer.put(told)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    with owned(state) as disk, telling(disk.path, events):
        yield asked
    events.put(None)
    thread.join()


def device(directory: Path, url: str, password: str = PASSWORD, **broker: Any) -> Path:
    """An agent.toml, with a password file that is this user's alone."""
    (directory / "password").write_text(password)
    (directory / "password").chmod(0o600)
    table = {"url": url, "username": "pi-1", "password_file": "password", **broker}
    return Site(directory, url, Path()).agent("pi-1", broker=table)


def examined(config: Path, now: datetime | None = None) -> dict[str, Finding]:
    """The worst finding of each check."""
    order = (Verdict.OK, Verdict.UNKNOWN, Verdict.WARNING, Verdict.FAILED)
    found: dict[str, Finding] = {}
    for finding in sorted(examine(config, now or datetime.now(UTC)), key=lambda finding: order.index(finding.verdict)):
        found[finding.check] = finding
    return found


def failures(found: dict[str, Finding]) -> set[str]:
    return {check for check, finding in found.items() if finding.verdict is Verdict.FAILED}


def test_where_all_is_well_each_check_says_so_and_the_way_back_is_proven(tmp_path: Path) -> None:
    with guarded(tmp_path) as broker, answering(Broker(broker.url), tmp_path):
        config = device(tmp_path, broker.url)
        code, printed, _ = ran("doctor", config, "--json")
    found = {finding["check"]: finding for finding in json.loads(printed)}
    assert code == 0, printed
    assert {"versions", "processor", "runtime", "clock", "memory", "memory limits", "disk", "data", "DNS"} <= set(found)
    assert found["access list"]["told"] == "pi-1 publishes, and the aggregator's answer comes back"
    assert found["credentials"]["verdict"] == found["secrets"]["verdict"] == "ok"


def test_a_wrong_password_is_said_to_be_one(tmp_path: Path) -> None:
    with guarded(tmp_path) as broker:
        found = examined(device(tmp_path, broker.url, password="not this one"))
    assert failures(found) == {"credentials"}
    assert "a wrong password looks like this: pi-1's is taken from" in found["credentials"].line
    assert found["access list"].verdict is Verdict.UNKNOWN


def test_a_closed_port_and_an_unknown_host_are_told_apart(tmp_path: Path) -> None:
    closed = examined(device(tmp_path, f"mqtt://127.0.0.1:{free_port()}"))
    assert failures(closed) == {"port"}
    assert "Connection refused; is it running there, and the port right?" in closed["port"].told
    unknown = examined(device(tmp_path, "mqtt://no-such-host.invalid"))
    assert failures(unknown) == {"DNS"}
    assert unknown["port"].verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("what", "topic"), [("up", TOPICS.up("pi-1", "check-in")), ("presence", TOPICS.status("pi-1"))]
)
def test_a_right_to_publish_that_is_missing_is_named(tmp_path: Path, what: str, topic: str) -> None:
    rights = ACCESS_LIST.replace(f"{RIGHTS[what]}\n", "")
    with guarded(tmp_path, rights) as broker:
        found = examined(device(tmp_path, broker.url))
    assert failures(found) == {"access list"}
    assert found["access list"].told == f"pi-1 may not publish on {topic}"


@pytest.mark.parametrize(("right", "told"), [("down", "nothing came back on"), ("round", "does not get the manifest")])
def test_a_right_to_read_that_is_missing_is_named(
    tmp_path: Path, right: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if right == "down":  # what never comes need not be waited for
        monkeypatch.setattr("fedprune.doctor.login._PATIENCE_S", 2.0)
    rights = ACCESS_LIST.replace(f"{RIGHTS[right]}\n", "")
    with guarded(tmp_path, rights) as broker, answering(Broker(broker.url), tmp_path):
        found = examined(device(tmp_path, broker.url))
    assert failures(found) == {"access list"}
    assert told in found["access list"].told


def test_an_aggregator_of_another_version_is_told(tmp_path: Path) -> None:
    unreadable = Rejected(reason=Reason.UNREADABLE, detail="schema version 7")
    with guarded(tmp_path) as broker, answering(Broker(broker.url), tmp_path, unreadable):
        found = examined(device(tmp_path, broker.url))
    assert failures(found) == {"protocol"}
    assert "cannot read what this version says (schema version 7); upgrade the older side" in found["protocol"].line


def test_an_aggregator_without_the_devices_key_is_told(tmp_path: Path) -> None:
    with guarded(tmp_path) as broker, answering(Broker(broker.url), tmp_path):
        config = device(tmp_path, broker.url)
        (tmp_path / "key").write_text("ab" * KEY_BYTES)
        (tmp_path / "key").chmod(0o600)
        config.write_text(f'authentication_key = "key"\n{config.read_text()}')
        found = examined(config)
    assert failures(found) == {"protocol"}
    assert "it is not authentic" in found["protocol"].told


def test_without_an_aggregator_the_way_back_is_unknown_and_no_failure(tmp_path: Path) -> None:
    with guarded(tmp_path) as broker:
        found = examined(device(tmp_path, broker.url))
    assert not failures(found)
    assert "no aggregator is connected" in found["access list"].told


def test_a_clock_in_the_year_2000_is_named(tmp_path: Path) -> None:
    found = examined(device(tmp_path, f"mqtt://127.0.0.1:{free_port()}"), datetime(2000, 1, 1, tzinfo=UTC))
    assert found["clock"].verdict is Verdict.FAILED
    assert found["clock"].told.startswith("it says 2000-01-01 00:00 UTC, which is past")


@needs_openssl
def test_tls_is_examined_with_the_dates_of_every_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.issue("server", host="IP:127.0.0.1", years=(2020, 2090))
    tls = (f"cafile {authority.ca}", f"certfile {certificate}", f"keyfile {key}")
    with guarded(tmp_path, ACCESS_LIST, *tls) as broker:
        url = f"mqtts://127.0.0.1:{broker.port}"
        found = examined(device(tmp_path, url, tls={"ca": str(authority.ca)}))
        assert not failures(found)
        assert "the broker's certificate, of 127.0.0.1, is valid until 2090-01-01" in found["TLS"].told
        early = examined(device(tmp_path, url, tls={"ca": str(authority.ca)}), datetime(2000, 1, 1, tzinfo=UTC))
        assert {"clock", "certificate", "TLS"} <= failures(early)
        stranger = Authority(tmp_path / "stranger")
        assert "TLS" in failures(examined(device(tmp_path, url, tls={"ca": str(stranger.ca)})))


def test_an_unreadable_data_file_is_named(tmp_path: Path) -> None:
    config = device(tmp_path, f"mqtt://127.0.0.1:{free_port()}")
    text, folder = config.read_text(), tmp_path / "recordings" / "yes"
    folder.mkdir(parents=True)
    (folder / "1.wav").write_bytes(b"RIFF")
    (folder / "2.wav").symlink_to(tmp_path / "gone")
    config.write_text(text.replace("pi-1.npz", "recordings"))
    found = examined(config)["data"]
    assert found.verdict is Verdict.FAILED
    assert f"{folder / '2.wav'}: there is no such file" in found.told
    (tmp_path / "pi-1.npz").write_bytes(b"PK, and then nothing")
    config.write_text(text)
    assert "pi-1.npz" in examined(config)["data"].told
    assert examined(config)["data"].verdict is Verdict.FAILED


def test_data_are_read_as_the_task_that_came_last_takes_them(tmp_path: Path, tiny_task: Path) -> None:
    config = device(tmp_path, f"mqtt://127.0.0.1:{free_port()}")
    state = tmp_path / "state-of-pi-1"
    state.mkdir()
    (state / f"{'0' * 64}.fedtask").write_bytes(tiny_task.read_bytes())
    assert "24 examples" in examined(config)["data"].told
    fitting = examples(6, 1)
    save_npz(tmp_path / "pi-1.npz", type(fitting)(fitting.x, fitting.y + 100))
    assert "label 102 is out of range" in examined(config)["data"].told


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    config = device(tmp_path, f"mqtt://127.0.0.1:{free_port()}")
    state = tmp_path / "state-of-pi-1"
    state.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", state], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system takes the right to mount one")
    try:
        (state / "filler").write_bytes(bytes(60 * 1024))
        found = examined(config)["disk"]
    finally:
        subprocess.run(["umount", state], check=True)
    assert found.verdict is Verdict.FAILED
    assert found.told == f"{state}: No space left on device"


def test_a_key_that_others_can_read_is_named(tmp_path: Path) -> None:
    config = device(tmp_path, f"mqtt://127.0.0.1:{free_port()}")
    (tmp_path / "password").chmod(0o644)
    found = examined(config)["secrets"]
    assert found.verdict is Verdict.FAILED
    assert found.mending == f"chmod 600 {tmp_path / 'password'}"


@pytest.mark.parametrize("runs", [None, False, True])
def test_where_no_federation_runs_an_agent_without_an_answer_has_not_failed(tmp_path: Path, runs: bool | None) -> None:
    told = AgentStatus("0.1.0", "idle", None, is_connected=True, heard_s=600.0, unanswered=3, runs=runs)
    with guarded(tmp_path) as broker:
        config = device(tmp_path, broker.url)
        with told_by_an_agent(tmp_path / "state-of-pi-1", told):
            found = examined(config)
    assert failures(found) == ({"access list"} if runs else set())
    assert (found["access list"].verdict is Verdict.UNKNOWN) is not runs
    assert ("no federation runs now" in found["access list"].told) is not runs


def test_an_agent_that_runs_is_asked_and_nobody_logs_in_as_it(tmp_path: Path) -> None:
    told = AgentStatus("0.1.0", "training", 3, is_connected=True, heard_s=0.0, unanswered=0, waits_for="it is 81 °C")
    with guarded(tmp_path) as broker:
        config = device(tmp_path, broker.url, password="not this one")
        with told_by_an_agent(tmp_path / "state-of-pi-1", told) as asked:
            found = examined(config)
        assert ask(tmp_path / "state-of-pi-1") is None
    assert not failures(found)
    assert "round 3, training, waits: it is 81 °C" in found["agent"].told
    assert found["access list"].verdict is Verdict.OK
    assert True in asked


def test_what_joining_wrote_counts_where_the_persons_own_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "joined").mkdir()
    config = device(tmp_path / "joined", f"mqtt://127.0.0.1:{free_port()}")
    own = tmp_path / "agent.toml"
    own.write_text('joined = "joined/pi-1.toml"\nthreads = 2\n')
    found = examined(own)
    assert failures(found) == failures(examined(config)) == {"port"}
    assert "agent pi-1" in found["settings"].told
    own.write_text('joined = "nowhere.toml"\n')
    assert "this device has yet to join: `fedprune join TOKEN`" in examined(own)["settings"].told


@pytest.fixture
def anybodys() -> Iterator[Path]:
    """A directory that every user may read. pytest's own lie in one that each start of pytest shuts to others."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to become another user")
def test_root_examines_a_device_as_the_user_as_whom_its_agent_runs(anybodys: Path) -> None:
    """Python itself may lie where nobody else may read: so all that is needed is imported before."""
    state, data = anybodys / "state", anybodys / "data.npz"
    state.mkdir()
    data.write_bytes(b"examples")
    data.chmod(0o600)
    os.chown(state, 65534, 65534)
    program = f"""
from pathlib import Path
from fedprune.doctor.machine import examine_disk
from fedprune.doctor.ownership import examine_user
from fedprune.doctor.readability import unreadable_file
state = Path({str(state)!r})
print(*(finding.told for finding in examine_user(state)))
print(examine_disk(state).verdict)
print(unreadable_file(Path({str(data)!r})))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    user, disk, unreadable = done.stdout.splitlines()
    assert user == f"examined as nobody, whose {state} is"
    assert disk == Verdict.OK
    assert unreadable.startswith(f"{data}: Permission denied")


def test_a_task_that_waits_for_its_owners_word_is_named_until_it_is_approved(tmp_path: Path) -> None:
    config = Site(tmp_path, f"mqtt://127.0.0.1:{free_port()}", Path()).agent("pi-1", consent={"ask": True})
    files = ConsentFiles(Directory(tmp_path / "state-of-pi-1"))
    files.ask(TaskFacts("0f" * 32, "digits", "dense", 850, 20, 16, "arrays", "8x8x1", 0.2))
    waits = examined(config)["consent"]
    assert waits.verdict is Verdict.WARNING
    assert "task 'digits'" in waits.told
    files.approve("0f" * 32)
    assert examined(config)["consent"].verdict is Verdict.OK


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[rounds]\ncount = 3\n", "it names no task, as a gateway's own: name that gateway's directory instead"),
        ('name = "pi-1"\ncolour = "red"\n', "key 'colour' unknown"),
        ('task = "a.fedtask"\nstate = "run"\n[rounds]\ncount = 0\n', "rounds.count"),
    ],
)
def test_a_file_of_neither_side_is_told_as_that(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "some.toml"
    path.write_text(text)
    code, printed, errors = ran("doctor", path)
    assert code != 0
    assert said in printed + errors
    assert "Traceback" not in errors


def test_an_agent_whose_device_does_not_permit_training_says_why_it_waits(tmp_path: Path) -> None:
    now = datetime.now()
    hours = f"{(now.hour + 2) % 24:02}:00-{(now.hour + 3) % 24:02}:00"
    with guarded(tmp_path) as broker:
        config = device(tmp_path, broker.url)
        with config.open("a") as file:
            file.write(f'[guest]\nhours = "{hours}"\n')
        with Child("agent", "--config", config) as agent:
            agent.says(f", and it may train at {hours}")
            agent.says("connected; waiting for work")
            found = examined(config)
            agent.interrupt(signal.SIGTERM)
            assert agent.ends() == 0
    assert f"may train at {hours}" in found["agent"].told
    assert found["guest"].verdict is Verdict.WARNING


def test_a_gateways_directory_and_its_federation_are_examined(tmp_path: Path, tiny_task: Path) -> None:
    from tests.secured import SecuredGateway

    gateway = SecuredGateway.made(tmp_path / "gateway")
    (tmp_path / "held-out.npz").unlink(missing_ok=True)
    tls = {
        "ca": str(gateway.path / "ca.pem"),
        "certificate": str(gateway.path / "aggregator.pem"),
        "key": str(gateway.path / "aggregator.key"),
    }
    url = f"mqtts://127.0.0.1:{gateway.broker_port}"
    site = Site(tmp_path, url, tiny_task)
    federation = site.federation("run", gateway=str(gateway.path), broker={"url": url, "tls": tls})
    (gateway.path / "ca.key").chmod(0o640)
    with gateway.broker():
        for path in (gateway.path, federation):
            code, printed, _ = ran("doctor", path, "--json")
            found = json.loads(printed)
            assert code == 0, [finding for finding in found if finding["verdict"] == "failed"]
            rights = next(finding for finding in found if finding["check"] == "access list")
            assert rights["verdict"] == "ok", rights
            weak = [finding["told"] for finding in found if finding["verdict"] == "warning"]
            assert any("ca.key has mode 0640" in told for told in weak) == (path == gateway.path)
            assert any("nobody can join" in told for told in weak) == (path == gateway.path)
            assert any("root.key lies on the gateway" in told for told in weak) == (path == gateway.path)
