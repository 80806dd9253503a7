"""A device that has joined obeys what its gateway has signed last, and nothing older."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import msgspec
import pytest

from edge_agent import gateway_proof
from edge_agent.agent_state import Phase
from edge_agent.gateway_proof import MOST_WRONG, ROUNDS_UNWRITTEN, WRONG_WINDOW_S, GatewayProof, Outdated
from edge_agent.history import RoundsDone
from fedprune.errors import ProtocolError, StorageError
from fedprune.identity.signatures import new_signing_key
from fedprune.system.disk import Directory
from fedprune.wire.link import Delivery
from fedprune.wire.messages import (
    PROVEN_DIGEST_BYTES,
    Assignment,
    CheckIn,
    Failed,
    Manifest,
    Message,
    Reason,
    Rejected,
    encode,
)
from fedprune.wire.transfer import content_of
from tests.devices import TOPICS, Device
from tests.samples import MODEL_BLOB, TASK_BLOB, TERMS, assignment, chunks, digest, manifest
from tests.signed import FEDERATION, WEIGHTS, SigningGateway

GATEWAY = SigningGateway()


def proof_on(path: Path, gateway: SigningGateway = GATEWAY, done: RoundsDone | None = None) -> GatewayProof:
    return GatewayProof(FEDERATION, gateway.public_root, Directory(path), done or RoundsDone())


@pytest.fixture
def proof(tmp_path: Path) -> GatewayProof:
    return proof_on(tmp_path)


def admitted(proof: GatewayProof, *messages: Message, now: float = 0.0) -> list[Message]:
    return [let for message in messages for let in proof.admit(message, now)]


def proven(work: Assignment) -> Assignment:
    """As it is let pass: with the model's digest of the manifest, which is longer."""
    return msgspec.structs.replace(work, weights_digest=WEIGHTS[:PROVEN_DIGEST_BYTES])


def known(proof: GatewayProof, round_: int = 0, incarnation: int = 1) -> GatewayProof:
    """A proof that has seen a round."""
    work = GATEWAY.assignment(round_, incarnation=incarnation)
    assert len(admitted(proof, GATEWAY.manifest(round_, incarnation=incarnation), work)) == 2
    return proof


def test_work_and_its_manifest_count_together_in_whatever_order_they_come(tmp_path: Path) -> None:
    said, work = GATEWAY.manifest(), GATEWAY.assignment()

    assert admitted(proof_on(tmp_path / "a"), said, work) == [proven(work), said]
    assert admitted(proof_on(tmp_path / "b"), work, said) == [proven(work), said]


def test_later_work_waits_for_its_manifest_and_is_not_lost(proof: GatewayProof) -> None:
    known(proof)
    work = GATEWAY.assignment(1, with_terms=False)

    assert admitted(proof, work) == []
    assert not proof.asks, "it is probably on its way"
    assert admitted(proof, work) == []
    assert proof.asks
    assert admitted(proof, GATEWAY.manifest(1)) == [proven(work), GATEWAY.manifest(1)]
    assert admitted(proof, work) == [proven(work)]


def test_a_manifest_of_other_terms_is_kept_until_they_are_known(proof: GatewayProof) -> None:
    known(proof)
    other = SigningGateway(1, GATEWAY.root, GATEWAY.key, plain=msgspec.structs.replace(TERMS, seed=8))
    said, work = other.manifest(incarnation=2, run="next"), other.assignment(incarnation=2, run="next")

    assert admitted(proof, GATEWAY.manifest(run="same", incarnation=2)), "the same terms, whatever the run"
    assert admitted(proof, said) == []
    assert proof.asks
    assert admitted(proof, work) == [proven(work), said]


@pytest.mark.parametrize(
    ("forged", "why"),
    [
        (manifest(1), "it is not signed, and this device obeys a root key"),
        (msgspec.structs.replace(GATEWAY.manifest(1), round=2), "its signature is not the gateway's"),
        (msgspec.structs.replace(GATEWAY.manifest(1), done=True), "its signature is not the gateway's"),
        (
            msgspec.structs.replace(GATEWAY.manifest(1), weights_digest=digest("x")[:PROVEN_DIGEST_BYTES]),
            "its signature is not",
        ),
        (msgspec.structs.replace(GATEWAY.manifest(1), signature=bytes(64)), "its signature is not the gateway's"),
        (msgspec.structs.replace(GATEWAY.manifest(1), newest=9), "its signature is not the gateway's"),
        (SigningGateway(1, GATEWAY.root).manifest(1), "its signature is not the gateway's"),
        (SigningGateway(federation="other", root=GATEWAY.root, key=GATEWAY.key).manifest(1), "its signature is not"),
    ],
    ids=["unsigned", "round", "done", "model", "signature", "versions", "key", "federation"],
)
def test_forged_manifests_are_refused(proof: GatewayProof, forged: Manifest, why: str) -> None:
    known(proof)

    with pytest.raises(ProtocolError, match=why):
        admitted(proof, forged)
    assert admitted(proof, GATEWAY.manifest(1)) == [GATEWAY.manifest(1)]


def test_what_is_older_than_what_was_seen_is_refused(proof: GatewayProof) -> None:
    known(proof, round_=3, incarnation=5)

    with pytest.raises(
        ProtocolError, match="says epoch 1, start 5, round 3, and this device has seen epoch 1, start 5, "
    ):
        admitted(proof, GATEWAY.manifest(2, incarnation=5))
    with pytest.raises(ProtocolError, match="`fedprune gateway epoch ROOTKEY` there opens a new epoch"):
        admitted(proof, GATEWAY.manifest(9, incarnation=4))
    with pytest.raises(Outdated):
        admitted(proof, GATEWAY.assignment(2, incarnation=5, with_terms=False))
    with pytest.raises(ProtocolError, match="it is sent again"):
        admitted(proof, Rejected(reason=Reason.FINISHED, epoch=1, incarnation=5, round=2))
    assert "restored from a backup" in proof.waits_for
    now = Rejected(reason=Reason.NOT_SELECTED, epoch=1, incarnation=5, round=3)
    ticket = Rejected(reason=Reason.NOT_SELECTED, ticket=b"ticket")
    assert admitted(proof, now, ticket) == [now, ticket]
    assert admitted(proof, GATEWAY.manifest(4, incarnation=5)) == [GATEWAY.manifest(4, incarnation=5)]
    assert not proof.waits_for


def test_old_work_that_is_sent_again_leaves_nothing_behind(proof: GatewayProof) -> None:
    former = SigningGateway(1, GATEWAY.root, GATEWAY.key, plain=msgspec.structs.replace(TERMS, seed=8))
    known(proof, round_=3, incarnation=5)
    with pytest.raises(Outdated):
        admitted(proof, former.assignment(7, incarnation=4, run="former"))

    again, following = GATEWAY.assignment(3, incarnation=5), GATEWAY.manifest(4, incarnation=5)
    assert admitted(proof, again) == [proven(again)], "also where it brings its terms"
    assert admitted(proof, following) == [following]


def test_work_of_another_model_than_the_manifests_is_refused(proof: GatewayProof) -> None:
    known(proof)
    said = GATEWAY.manifest(1, weights=digest("other"))

    assert admitted(proof, said) == [said]
    with pytest.raises(ProtocolError, match="its model is not the one of the round's manifest"):
        admitted(proof, GATEWAY.assignment(1, with_terms=False))


def test_a_task_that_is_not_the_signed_one_is_refused_whenever_it_comes(tmp_path: Path) -> None:
    """By who has the device's own key, and not the gateway's."""
    task = msgspec.structs.replace(GATEWAY.terms, task=content_of(b"another task"))
    forged = msgspec.structs.replace(GATEWAY.assignment(), terms=task)

    late = known(proof_on(tmp_path / "late"))
    with pytest.raises(ProtocolError, match="its terms, or its task, are not those that the gateway has signed"):
        admitted(late, forged)
    assert admitted(late, GATEWAY.assignment(with_terms=False)) == [proven(GATEWAY.assignment(with_terms=False))]
    early = proof_on(tmp_path / "early")
    assert admitted(early, forged) == []
    with pytest.raises(ProtocolError, match="its signature is not the gateway's"):
        admitted(early, GATEWAY.manifest())
    assert admitted(early, GATEWAY.assignment()) == []
    assert admitted(early, GATEWAY.manifest()) == [proven(GATEWAY.assignment()), GATEWAY.manifest()]


def test_terms_of_a_start_that_never_was_make_no_task_a_signed_one(proof: GatewayProof) -> None:
    known(proof)
    task = msgspec.structs.replace(GATEWAY.terms, task=content_of(b"another task"))
    beside = msgspec.structs.replace(GATEWAY.assignment(run="other", incarnation=2), terms=task)
    assert admitted(proof, beside) == []

    with pytest.raises(ProtocolError, match="its terms, or its task, are not those that the gateway has signed"):
        admitted(proof, msgspec.structs.replace(GATEWAY.assignment(), terms=task))
    assert admitted(proof, GATEWAY.assignment()) == [proven(GATEWAY.assignment())]
    assert admitted(proof, GATEWAY.manifest(1)) == [GATEWAY.manifest(1)]


def test_a_strangers_root_key_is_refused(proof: GatewayProof) -> None:
    stranger = SigningGateway()

    assert admitted(proof, stranger.manifest()) == []
    with pytest.raises(ProtocolError, match="another root key than the one that this device trusts"):
        admitted(proof, stranger.assignment())
    with pytest.raises(ProtocolError, match="the gateway does not say who signs for it"):
        admitted(proof, assignment())


def test_a_new_epoch_of_the_root_key_counts_whatever_was_seen(proof: GatewayProof) -> None:
    known(proof, round_=9, incarnation=9)
    restored = GATEWAY.in_epoch(2)
    said, work = restored.manifest(4, incarnation=3, run="new"), restored.assignment(4, incarnation=3, run="new")

    assert admitted(proof, said) == []
    assert proof.asks
    assert admitted(proof, work) == [proven(work), said]
    with pytest.raises(ProtocolError, match="has seen epoch 2"):
        admitted(proof, GATEWAY.manifest(10, incarnation=9))
    with pytest.raises(Outdated):
        admitted(proof, GATEWAY.assignment(10, incarnation=9))


def test_what_was_seen_outlives_the_process(tmp_path: Path) -> None:
    known(proof_on(tmp_path), round_=20, incarnation=2)
    again = proof_on(tmp_path)

    with pytest.raises(ProtocolError, match="has seen epoch 1, start 2, round 21"):
        admitted(again, GATEWAY.manifest(19, incarnation=2))
    assert len(admitted(again, GATEWAY.manifest(20, incarnation=2), GATEWAY.assignment(20, incarnation=2))) == 2
    with pytest.raises(ProtocolError, match="has seen epoch 1, start 2, round 31"):
        admitted(proof_on(tmp_path, done=RoundsDone((("abcd", 30),))), GATEWAY.manifest(29, incarnation=2))


def test_a_device_that_has_joined_another_gateway_begins_anew(tmp_path: Path) -> None:
    known(proof_on(tmp_path), incarnation=7)
    other = SigningGateway()

    assert len(admitted(proof_on(tmp_path, other), other.manifest(), other.assignment())) == 2


def test_a_file_that_is_damaged_says_what_to_do(tmp_path: Path) -> None:
    known(proof_on(tmp_path))
    file = tmp_path / "gateway-proof.json"
    for text in ("{", json.dumps(json.loads(file.read_text()) | {"format": 2})):
        file.write_text(text)
        with pytest.raises(StorageError, match="delete it to have this device begin anew with its gateway"):
            proof_on(tmp_path)


def test_the_disk_is_written_seldom(tmp_path: Path) -> None:
    class Counting(Directory):
        written = 0

        def write(self, name: str, blob: bytes) -> None:
            self.written += 1
            super().write(name, blob)

    disk = Counting(tmp_path)
    proof = known(GatewayProof(FEDERATION, GATEWAY.public_root, disk, RoundsDone()))
    for round_ in range(1, 2 * ROUNDS_UNWRITTEN + 1):
        admitted(proof, GATEWAY.manifest(round_))

    assert disk.written == 4  # epoch, start, and two


def test_a_flood_of_forgeries_takes_few_verifications(proof: GatewayProof, monkeypatch: pytest.MonkeyPatch) -> None:
    known(proof)
    tried, honest = [], gateway_proof.is_proven
    monkeypatch.setattr(gateway_proof, "is_proven", lambda *said: tried.append(said) or honest(*said))
    for number in range(1000):
        forged = msgspec.structs.replace(GATEWAY.manifest(1), signature=number.to_bytes(64, "big"))
        with pytest.raises(ProtocolError, match="signature"):
            admitted(proof, forged)
    assert len(tried) == MOST_WRONG

    assert admitted(proof, GATEWAY.manifest(1), now=WRONG_WINDOW_S) == [GATEWAY.manifest(1)]
    for _ in range(1000):
        admitted(proof, GATEWAY.manifest(1), now=WRONG_WINDOW_S)
    assert len(tried) == MOST_WRONG + 1, "what was proven once is not tried again"


# The agent that uses it


def device(tmp_path: Path) -> Device:
    state = tmp_path / "state"
    return Device(state, proof=proof_on(state))


def said_to_all(device: Device, said: Manifest, *, now: float = 0.0, retained: bool = False) -> None:
    device.runner.deliver(Delivery(TOPICS.round, encode(said), retained=retained), now)


@pytest.mark.parametrize("retained", [False, True])
def test_an_agent_goes_on_whatever_forged_manifests_come(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, retained: bool
) -> None:
    agent = device(tmp_path)
    said_to_all(agent, GATEWAY.manifest())
    agent.hears(GATEWAY.assignment(), *chunks(TASK_BLOB), *chunks(MODEL_BLOB))
    assert agent.runner.state.phase is Phase.TRAINING
    for forged in (manifest(1), manifest(run="other"), msgspec.structs.replace(GATEWAY.manifest(1), round=5)):
        said_to_all(agent, forged, retained=retained)

    assert agent.runner.state.phase is Phase.TRAINING
    assert agent.runner.ignored == 3
    assert "it is not signed" in caplog.text
    said_to_all(agent, GATEWAY.manifest(1))
    assert agent.runner.state.phase is Phase.IDLE, "what is signed recalls it"


def test_nothing_is_fetched_before_the_manifest_is_proven(tmp_path: Path) -> None:
    agent = device(tmp_path)
    agent.hears(GATEWAY.assignment())

    assert agent.runner.state.phase is Phase.IDLE
    said_to_all(agent, GATEWAY.manifest())
    assert agent.runner.state.phase is Phase.FETCHING
    assert agent.runner.state.assignment == proven(GATEWAY.assignment())


def test_an_agent_that_cannot_prove_a_manifest_asks_once_in_a_while(tmp_path: Path) -> None:
    agent = device(tmp_path)
    before = len(agent.said(CheckIn))
    for now in (20.0, 21.0, 22.0, 40.0):
        said_to_all(agent, GATEWAY.manifest(), now=now)

    asked = agent.said(CheckIn)[before:]
    assert len(asked) == 2
    assert all(isinstance(offer, CheckIn) and offer.terms == 0 for offer in asked)
    assert agent.link.filters.count(TOPICS.round) == 3


@pytest.mark.parametrize(("retained", "times"), [(False, 1), (True, 0)])
def test_an_agent_that_was_there_before_its_gateway_asks_it_at_once(tmp_path: Path, retained: bool, times: int) -> None:
    """Its first check-in reached nobody. Where the gateway was there, that has asked."""
    agent = device(tmp_path)
    before = len(agent.said(CheckIn))

    said_to_all(agent, GATEWAY.manifest(), retained=retained, now=1.0)

    assert len(agent.said(CheckIn)) - before == times


def test_a_gateway_that_was_restored_from_a_backup_is_told_and_so_is_the_devices_owner(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = device(tmp_path)
    said_to_all(agent, GATEWAY.manifest(9, incarnation=9))
    agent.hears(GATEWAY.assignment(9, incarnation=9))
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        agent.runner.deliver(
            Delivery(TOPICS.down("pi-1", "assignment"), encode(GATEWAY.assignment(4, incarnation=3))), 60.0
        )

    (failed,) = agent.said(Failed)
    assert isinstance(failed, Failed)
    assert failed.rests
    assert "`fedprune gateway epoch ROOTKEY` there opens a new epoch" in failed.why
    assert failed.why in caplog.text
    assert agent.runner.status(0.0).waits_for == failed.why


def test_no_key_is_shown_where_a_signature_is_asked_for() -> None:
    key = new_signing_key()
    assert key.hex() not in repr(GATEWAY.terms)
