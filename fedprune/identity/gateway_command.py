"""`fedprune gateway`: the machine that a fleet belongs to: its authority, its broker's configuration, the proof."""

from __future__ import annotations

import logging
import queue
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from fedprune.config import from_table, read_table
from fedprune.errors import BrokerError, FedpruneError
from fedprune.identity.crossings import Crossing, cross_all
from fedprune.identity.enrolment import Enrolment
from fedprune.identity.enrolment_server import EnrolmentServer
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
from fedprune.identity.settings import GatewaySettings
from fedprune.system.paths import path_text
from fedprune.system.process import log_to_stderr, stopping
from fedprune.system.table import table_lines

_log = logging.getLogger(__name__)

DIRECTORY = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    default=Path("gateway"),
    show_default=True,
    help="The gateway's directory: keys, certificates, Mosquitto's configuration, the devices.",
)


@click.group()
def gateway() -> None:
    """The machine that a fleet belongs to: its own authority, and a broker that lets in nobody else."""


@gateway.command()
@click.argument("hosts", nargs=-1, required=True)
@DIRECTORY
@click.option("--federation", help="The federation's name.  [default: fedprune]")
@click.option("--broker-port", type=int, help="Where the broker will listen, with TLS.  [default: 8883]")
@click.option("--enrolment-port", type=int, help="Where new devices will be let in, with TLS.  [default: 8884]")
def init(hosts: tuple[str, ...], directory: Path, **settings: str | int | None) -> None:
    """Make a gateway: a certificate authority, and a configuration of Mosquitto that lets in only whom it certifies.

    HOSTS are the names and addresses by which devices reach this machine. Called once more, with other names or ports,
    it makes the gateway's own certificates and the configuration anew; the authority stays, and so do all devices, and
    whatever no option changes.

    \b
      fedprune gateway init gateway.local 192.168.1.10
      mosquitto -c gateway/mosquitto.conf
      fedprune gateway check
    """
    given = {"hosts": hosts} | {key: value for key, value in settings.items() if value is not None}
    before = read_table(directory / SETTINGS) if (directory / SETTINGS).exists() else {}
    made = init_gateway(directory, from_table(before | given, GatewaySettings, "options"), datetime.now(UTC))
    click.echo(_summary(made))


@gateway.command()
@DIRECTORY
@click.option("--json", "as_json", is_flag=True, help="Print what was tried as JSON.")
def check(directory: Path, as_json: bool) -> None:
    """Attack the running broker as a device that was captured could, and say what it let pass.

    Devices are played with certificates of the gateway's own, good for an hour. Exit code 0 if every attack was
    refused and everything went through that has to, else 6. A federation may be running: it drops what reaches it.

    \b
      fedprune gateway check --json
    """
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


@gateway.command()
@DIRECTORY
@click.option("--quiet", is_flag=True, help="Say only what was refused.")
def run(directory: Path, quiet: bool) -> None:
    """Let in the devices that `fedprune enroll` has invited, until Ctrl-C: serve the enrolment endpoint.

    It need not run when nobody joins. The broker and `fedprune aggregator` are processes of their own.

    
      fedprune gateway run
    """
    log_to_stderr("gateway", verbose=not quiet)
    opened = open_gateway(directory)
    opened.credentials(ENROLMENT)  # says which file is gone or damaged
    answers = Enrolment(opened, time.monotonic, lambda: datetime.now(UTC))
    events: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    port = opened.settings.enrolment_port
    with EnrolmentServer(port, opened.enrolment_files, answers.answer) as server, stopping(events):
        threading.Thread(target=server.serve_forever, name="enrolment", daemon=True).start()
        threading.Thread(target=_keep_renewed, args=(opened, server), name="renewal", daemon=True).start()
        _log.info("devices can join at port %s", port)
        try:
            raise events.get()
        finally:
            server.shutdown()


def _keep_renewed(opened: Gateway, server: EnrolmentServer) -> None:
    """Look every day whether the gateway's own certificates are due."""
    while True:
        try:
            if renew_gateway(opened, datetime.now(UTC)):
                server.read_certificate()
                _log.info("renewed the gateway's own certificates")
        except FedpruneError as fault:
            _log.error("the gateway's own certificates are not renewed: %s", fault)
        time.sleep(CHECK_S)


def _row(crossing: Crossing) -> dict[str, str | bool]:
    return msgspec.structs.asdict(crossing) | {"is_right": crossing.is_right}


def _outcome(crossing: Crossing) -> str:
    what = "passed" if crossing.passed else "refused"
    return what if crossing.is_right else f"WRONG: {what}"


def _summary(made: Gateway) -> str:
    path = made.path.resolve()
    return path_text(f"""\
{path} is the gateway of the federation {made.settings.federation}. All its devices trust {AUTHORITY}.key: keep it.

start the broker:         mosquitto -c {path / CONFIGURATION}
prove it:                 fedprune gateway check --dir {made.path}
let a device in:          fedprune gateway run --dir {made.path}, and: fedprune enroll NAME --dir {made.path}
for federation.toml:      name = "{made.settings.federation}"
                          gateway = "{path}"
                          [broker]
                          url = "{made.broker_url}"
                          tls.ca = "{path / AUTHORITY}.pem"
                          tls.certificate = "{path / AGGREGATOR}.pem"
                          tls.key = "{path / AGGREGATOR}.key\"""")
