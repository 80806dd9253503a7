"""`fedprune gateway`, as far as it is about who is who: to make a gateway, to prove its broker, to let devices in."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from fedprune.config import from_table, read_table
from fedprune.errors import BrokerError, FedpruneError
from fedprune.identity.crossings import Crossing, cross_all
from fedprune.identity.enrolment import Enrolment
from fedprune.identity.enrolment_server import EnrolmentServer
from fedprune.identity.epochs import ROOT_KEY, count_epoch, open_epoch
from fedprune.identity.gateway import (
    AGGREGATOR,
    AUTHORITY,
    CONFIGURATION,
    ENROLMENT,
    SETTINGS,
    Gateway,
    init_gateway,
    open_gateway,
)
from fedprune.identity.renewal import CHECK_S, renew_gateway
from fedprune.identity.settings import GatewaySettings, check_host
from fedprune.system.clock import check_clock
from fedprune.system.ownership import become_owner
from fedprune.system.paths import path_text, shell_text
from fedprune.system.table import table_lines

_log = logging.getLogger(__name__)

_ELSEWHERE = "192.0.2.1"
"""An address that is nobody's (RFC 5737): the way there is this machine's way out."""

DIRECTORY = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    default=Path("gateway"),
    show_default=True,
    envvar="FEDPRUNE_GATEWAY_DIR",
    help="The gateway's directory: keys, certificates, Mosquitto's configuration, the devices.",
)


def make_gateway(directory: Path, hosts: tuple[str, ...], given: Mapping[str, str | int | None]) -> Gateway:
    """Make a gateway, or bring one up to date: whatever is not given stays as it is there.

    Without `hosts` a new one goes by what this machine calls itself. Raises `ConfigurationError`.
    """
    become_owner(directory)
    before = read_table(directory / SETTINGS) if (directory / SETTINGS).exists() else {}
    names = hosts or before.get("hosts") or own_hosts()
    settings = before | {"hosts": names} | {key: value for key, value in given.items() if value is not None}
    now = datetime.now(UTC)
    check_clock(now)  # the authority begins by it, and would end by it
    return init_gateway(directory, from_table(settings, GatewaySettings, "options"), now)


def own_hosts() -> tuple[str, ...]:
    """The names and the address by which others are likely to reach this machine."""
    name = socket.gethostname().partition(".")[0]
    likely = [f"{name}.local", name]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((_ELSEWHERE, 9))  # a datagram socket: nothing is sent
        likely.append(probe.getsockname()[0])
    found = []
    for host in likely:
        with contextlib.suppress(ValueError):
            found.append(check_host(host))
    return tuple(found)


@click.command()
@DIRECTORY
@click.option("--json", "as_json", is_flag=True, help="Print what was tried as JSON.")
def check(directory: Path, as_json: bool) -> None:
    """Attack the running broker as a device that was captured could, and say what it let pass.

    Devices are played with certificates of the gateway's own, good for an hour. Exit code 0 if every attack was
    refused and everything went through that has to, else 6. A federation may be running: it drops what reaches it.

    \b
      fedprune gateway check --json
    """
    become_owner(directory)
    logging.getLogger("fedprune.wire").setLevel(logging.ERROR)  # connections are ended here, as they should be
    tried = list(cross_all(open_gateway(directory)))
    if as_json:
        click.echo(msgspec.json.encode([_row(crossing) for crossing in tried]).decode())
    else:
        lines = [[crossing.tried, _outcome(crossing)] for crossing in tried]
        click.echo("\n".join(table_lines(["what was tried", "outcome"], lines, left=(0, 1))))
    wrong = [crossing for crossing in tried if not crossing.is_right]
    if wrong:
        raise BrokerError(
            f"{len(wrong)} of {len(tried)} came out wrong, the first: {wrong[0].tried}; start the broker with "
            f"{path_text(directory / CONFIGURATION)} alone, as `fedprune gateway init` writes it"
        )


@click.command()
@click.argument("root_key", type=click.Path(path_type=Path))
@DIRECTORY
def epoch(root_key: Path, directory: Path) -> None:
    """Open a new epoch, after the gateway was restored from a backup: devices then take it for the present one.

    ROOT_KEY is the file that `fedprune gateway init` wrote, and that you moved away. It counts the epochs, and so has
    to be written. Devices have seen later manifests than a restored gateway makes, and wait until it has a new epoch;
    so they do with whoever restores one in secret. Start `fedprune gateway run` again afterwards.

    \b
      fedprune gateway epoch /media/usb/root.key
    """
    opened = open_gateway(directory)
    root = count_epoch(directory, opened.settings.federation, root_key)  # as who may read it, and may be another user
    become_owner(directory)
    open_epoch(opened.directory, root)
    click.echo(f"epoch {root.epoch} is open; start `fedprune gateway run` again, and devices go by it")


@contextmanager
def letting_in(opened: Gateway) -> Iterator[None]:
    """Meanwhile the devices that `fedprune enroll` has invited can join: the enrolment endpoint is served."""
    opened.credentials(ENROLMENT)  # says which file is gone or damaged
    answers = Enrolment(opened, time.monotonic, lambda: datetime.now(UTC))
    port, ended = opened.settings.enrolment_port, threading.Event()
    with EnrolmentServer(port, opened.enrolment_files, answers.answer) as server:
        threading.Thread(target=server.serve_forever, name="enrolment", daemon=True).start()
        threading.Thread(target=_keep_renewed, args=(opened, server, ended), name="renewal", daemon=True).start()
        _log.info("devices can join at port %s", port)
        try:
            yield
        finally:
            ended.set()
            server.shutdown()


def _keep_renewed(opened: Gateway, server: EnrolmentServer, ended: threading.Event) -> None:
    """Look every day whether the gateway's own certificates are due, until it is `ended`."""
    while not ended.is_set():
        try:
            if renew_gateway(opened, datetime.now(UTC)):
                server.read_certificate()
                _log.info("renewed the gateway's own certificates")
        except FedpruneError as fault:
            _log.error("the gateway's own certificates are not renewed: %s", fault)
        ended.wait(CHECK_S)


def _row(crossing: Crossing) -> dict[str, str | bool]:
    return msgspec.structs.asdict(crossing) | {"is_right": crossing.is_right}


def _outcome(crossing: Crossing) -> str:
    what = "passed" if crossing.passed else "refused"
    return what if crossing.is_right else f"WRONG: {what}"


def summary(made: Gateway) -> str:
    """What a person does next."""
    path, directory = made.path.resolve(), shell_text(made.path)
    return path_text(f"""\
{path} is the gateway of the federation {made.settings.federation}. All its devices trust {AUTHORITY}.key: keep it.

move the root key away:   mv {shell_text(path / ROOT_KEY)} /media/usb/
                          only `fedprune gateway epoch` needs it, after a restore from a backup

start the broker:         mosquitto -c {shell_text(path / CONFIGURATION)}
run federations on it:    fedprune gateway run --dir {directory}
(with the Debian package systemd does these two)
prove it:                 fedprune gateway check --dir {directory}
invite a device:          fedprune enroll NAME --dir {directory}
queue a federation:       fedprune gateway queue add --task FILE --dir {directory}

an aggregator by itself:  federation.toml has
                          name = "{made.settings.federation}"
                          gateway = "{path}"
                          [broker]
                          url = "{made.broker_url}"
                          tls.ca = "{path / AUTHORITY}.pem"
                          tls.certificate = "{path / AGGREGATOR}.pem"
                          tls.key = "{path / AGGREGATOR}.key\"""")
