"""A gateway's root key, the epochs that it opens, and what becomes of a run in a new one."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from aggregator.book import Book
from aggregator.run_epoch import enter_epoch
from fedprune.command import cli
from fedprune.errors import ConfigurationError, ProtocolError, StorageError
from fedprune.identity.epochs import ROOT_KEY, ROOT_PUBLIC, SIGNING, count_epoch, load_signing, open_epoch, public_root
from fedprune.identity.gateway import init_gateway
from fedprune.identity.gateway_command import summary
from fedprune.identity.manifest_signer import ManifestSigner
from fedprune.identity.settings import GatewaySettings
from fedprune.system.disk import Directory
from fedprune.wire.proof import is_proven, proven_statement
from tests.samples import TERMS, digest, manifest

SETTINGS = GatewaySettings(("127.0.0.1",), federation="tests")
NOW = datetime.now(UTC)


@pytest.fixture
def gateway(tmp_path: Path) -> Path:
    """A gateway's directory, whose root key was moved away."""
    init_gateway(tmp_path / "gateway", SETTINGS, NOW)
    (tmp_path / "usb").mkdir()
    (tmp_path / "gateway" / ROOT_KEY).rename(tmp_path / "usb" / ROOT_KEY)
    return tmp_path / "gateway"


def root_key(gateway: Path) -> Path:
    return gateway.parent / "usb" / ROOT_KEY


def epoch(gateway: Path) -> int:
    """The epoch that the gateway signs in, as a device with its root key finds."""
    signer = ManifestSigner(gateway, "tests")
    said = signer.signed(manifest(2), TERMS, digest("weights"))
    statement = proven_statement("tests", public_root(gateway), signer.statement)
    assert is_proven("tests", said, TERMS, statement.key)
    assert said.epoch == signer.epoch == statement.epoch
    return said.epoch


def test_a_new_gateway_is_in_its_first_epoch_and_says_to_move_the_root_key(tmp_path: Path) -> None:
    made = init_gateway(tmp_path / "gateway", SETTINGS, NOW)

    assert epoch(made.path) == 1
    assert f"mv {made.path / ROOT_KEY} " in summary(made)


def test_private_keys_are_their_owners_alone_and_are_shown_nowhere(gateway: Path) -> None:
    files = [root_key(gateway), gateway / SIGNING]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    signing = load_signing(gateway)
    root = count_epoch(gateway, "tests", root_key(gateway))

    shown = f"{signing!r} {root!r}"
    assert signing.key.hex() not in shown
    assert repr(signing.key)[2:-1] not in shown
    assert root.key not in shown


def test_calling_init_again_keeps_root_key_and_epoch(gateway: Path) -> None:
    signing, root = load_signing(gateway), public_root(gateway)

    init_gateway(gateway, SETTINGS, NOW)

    assert (load_signing(gateway), public_root(gateway)) == (signing, root)
    assert not (gateway / ROOT_KEY).exists()


def test_a_gateway_that_never_had_a_root_key_is_given_one_by_init(gateway: Path) -> None:
    for name in (SIGNING, "root.pub"):
        (gateway / name).unlink()

    init_gateway(gateway, SETTINGS, NOW)

    assert epoch(gateway) == 1
    assert (gateway / ROOT_KEY).exists()


def test_the_command_opens_epoch_after_epoch(gateway: Path) -> None:
    keys = set()
    for number in (2, 3):
        done = CliRunner().invoke(cli, ["gateway", "epoch", str(root_key(gateway)), "--dir", str(gateway)])
        assert done.exit_code == 0, done.output
        assert f"epoch {number} is open; start `fedprune gateway run` again" in done.output
        assert epoch(gateway) == number
        keys.add(load_signing(gateway).key)
    assert len(keys) == 2


def test_an_epoch_that_a_backup_has_forgotten_is_not_opened_twice(gateway: Path) -> None:
    backup = (gateway / SIGNING).read_bytes()
    open_epoch(Directory(gateway), count_epoch(gateway, "tests", root_key(gateway)))
    (gateway / SIGNING).write_bytes(backup)

    open_epoch(Directory(gateway), count_epoch(gateway, "tests", root_key(gateway)))

    assert epoch(gateway) == 3


def test_a_gateway_whose_signing_key_is_gone_or_damaged_says_so_and_a_new_epoch_mends_it(gateway: Path) -> None:
    (gateway / SIGNING).write_text("{}")
    with pytest.raises(StorageError, match="damaged; restore it from a backup, or open a new epoch: `fedprune gateway"):
        ManifestSigner(gateway, "tests")
    (gateway / SIGNING).unlink()
    with pytest.raises(StorageError, match="there is no such file; restore it"):
        ManifestSigner(gateway, "tests")

    open_epoch(Directory(gateway), count_epoch(gateway, "tests", root_key(gateway)))
    assert epoch(gateway) == 2


def test_a_gateway_of_an_older_version_says_what_gives_it_its_keys(tmp_path: Path) -> None:
    made = init_gateway(tmp_path / "gateway", SETTINGS, NOW)
    for file in (ROOT_KEY, ROOT_PUBLIC, SIGNING):
        (made.path / file).unlink()

    with pytest.raises(StorageError, match="an older fedprune made this gateway: `fedprune gateway init` makes its"):
        made.check_federations()

    init_gateway(made.path, SETTINGS, NOW)
    assert epoch(made.path) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes another user's file")
def test_a_root_key_that_root_counts_with_stays_its_owners(gateway: Path) -> None:
    os.chown(root_key(gateway), 12345, 12345)
    count_epoch(gateway, "tests", root_key(gateway))
    found = root_key(gateway).stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 12345, 0o600)


def test_another_gateways_root_key_opens_nothing(gateway: Path, tmp_path: Path) -> None:
    other = init_gateway(tmp_path / "other", SETTINGS, NOW).path
    before = load_signing(gateway)

    with pytest.raises(ConfigurationError, match=r"the root key of another gateway \(federation tests\)"):
        count_epoch(gateway, "tests", other / ROOT_KEY)
    with pytest.raises(ConfigurationError, match="key"):
        count_epoch(gateway, "tests", gateway / "gateway.toml")
    assert load_signing(gateway) == before
    with pytest.raises(ProtocolError, match="another root key"):
        proven_statement("tests", public_root(other), before.statement)
    with pytest.raises(ProtocolError, match="another root key"):
        proven_statement("another", public_root(gateway), before.statement)


def test_an_aggregator_of_another_federation_signs_nothing_here(gateway: Path) -> None:
    with pytest.raises(ConfigurationError, match='the gateway of federation tests; set name = "tests"'):
        ManifestSigner(gateway, "another")


def test_starts_are_counted_over_all_runs_of_a_gateway(gateway: Path) -> None:
    assert [ManifestSigner(gateway, "tests").count_start() for _ in range(3)] == [1, 2, 3]


def test_a_run_has_another_id_in_another_epoch_and_in_the_same_one_its_own(tmp_path: Path) -> None:
    disk, book = Directory(tmp_path), Book.open(tmp_path / "book.sqlite")
    assert not enter_epoch(1, disk, book)
    first, _ = book.start("first", bytes(32), {})
    book.assign(0, {"pi-1": 10}, 10)
    assert not enter_epoch(1, disk, book)
    assert book.cohort(0)[0]

    assert enter_epoch(2, disk, book)

    run, _ = book.start("never taken", bytes(32), {})
    assert run not in (first, "never taken")
    assert book.cohort(0) == ({}, 0), "the open round begins anew"
    assert not enter_epoch(2, disk, book)
    assert book.start("never taken", bytes(32), {})[0] == run
    book.close()
