"""What messages leave unsaid: the other side knows it, and takes it for nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.speaker import Speaker
from aggregator.submits_heard import SubmitsHeard
from edge_agent.agent_state import Phase
from edge_agent.brief_submits import BriefSubmits
from edge_agent.gateway_proof import GatewayProof
from edge_agent.history import RoundsDone
from fedprune.errors import ProtocolError
from fedprune.system.disk import Directory
from fedprune.wire.authentication import KEY_BYTES, add_mac, verified, verified_in
from fedprune.wire.link import Delivery
from fedprune.wire.messages import Assignment, Submit, decode, encode
from fedprune.wire.unsaid import run_context
from fedprune.wire.versions import SPOKEN
from tests.devices import TOPICS, Device
from tests.gateways import TASK_PLAN, Site
from tests.recorder import Recorder
from tests.samples import RUN, digest, manifest, submit
from tests.signed import FEDERATION, SigningGateway

GATEWAY = SigningGateway()
KEYS: Any = {"pi-1": bytes(range(KEY_BYTES))}
KEY = KEYS["pi-1"]
WORK, SUBMIT = TOPICS.down("pi-1", "assignment"), TOPICS.up("pi-1", "submit")


class Pair:
    """A gateway that speaks, and a device that has joined it and knows its terms."""

    def __init__(self, path: Path) -> None:
        self.link = Recorder()
        self.speaker = Speaker(TOPICS, self.link, KEYS, SPOKEN)
        proof = GatewayProof(FEDERATION, GATEWAY.public_root, Directory(path), RoundsDone())
        self.device = Device(path, KEY, proof=proof)
        self.speaker.announce(GATEWAY.manifest(), 1)
        self.speaker.tell("pi-1", GATEWAY.assignment())
        self.bring(*self.link.published)

    def bring(self, *deliveries: Delivery) -> None:
        for delivery in deliveries:
            self.device.runner.deliver(Delivery(delivery.topic, delivery.payload), 0.0)

    def next_round(self) -> tuple[Delivery, Delivery]:
        """Its manifest and its work, as they are said."""
        self.speaker.announce(GATEWAY.manifest(1), 1)
        self.speaker.tell("pi-1", GATEWAY.assignment(1, with_terms=False))
        said, work = self.link.published[-2:]
        return said, work

    @property
    def round(self) -> int | None:
        work = self.device.runner.state.assignment
        return None if work is None else work.round


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path / "state")


def test_work_leaves_out_what_the_signed_manifest_says(pair: Pair) -> None:
    said, work = pair.next_round()
    assert len(work.payload) <= len(add_mac(KEY, WORK, encode(GATEWAY.assignment(1, with_terms=False)))) - 13
    pair.bring(said, work)

    taken = pair.device.runner.state.assignment
    assert taken is not None
    assert msgspec.structs.replace(taken, terms=None) == msgspec.structs.replace(
        GATEWAY.assignment(1, with_terms=False), weights_digest=GATEWAY.manifest().weights_digest
    )


def test_work_that_overtook_its_manifest_waits_for_it(pair: Pair) -> None:
    said, work = pair.next_round()
    pair.bring(work)
    assert pair.round == 0
    pair.bring(said)
    assert pair.round == 1


def test_work_counts_with_its_own_manifest_alone(pair: Pair) -> None:
    _, work = pair.next_round()
    other = GATEWAY.manifest(1, weights=digest("another model"))
    pair.bring(Delivery(TOPICS.round, encode(other)), work)
    assert pair.device.runner.state.phase is Phase.IDLE
    pair.bring(Delivery(TOPICS.round, encode(GATEWAY.manifest(2))), work)
    assert pair.device.runner.state.phase is Phase.IDLE
    assert pair.device.runner.ignored


def test_work_that_is_said_again_is_whole(pair: Pair) -> None:
    pair.next_round()
    again = GATEWAY.assignment(1, with_terms=False)
    pair.speaker.tell("pi-1", again)
    assert decode(Assignment, verified(KEY, WORK, pair.link.on(WORK)[-1])) == again


def test_work_without_a_signed_manifest_is_whole(pair: Pair) -> None:
    work = GATEWAY.assignment(1, with_terms=False)
    pair.speaker.announce(manifest(1), 1)
    pair.speaker.tell("pi-1", work)
    assert decode(Assignment, verified(KEY, WORK, pair.link.on(WORK)[-1])) == work
    link = Recorder()
    speaker = Speaker(TOPICS, link, None, SPOKEN)
    speaker.announce(GATEWAY.manifest(1), 1)
    speaker.tell("pi-1", work)
    assert decode(Assignment, link.on(WORK)[-1]) == work


@pytest.mark.parametrize("unsaid", ["run", "weights_digest"])
def test_work_that_says_too_little_is_refused(tmp_path: Path, unsaid: str) -> None:
    device = Device(tmp_path / "state")
    device.hears(msgspec.structs.replace(GATEWAY.assignment(), **{unsaid: type(getattr(manifest(), unsaid))()}))
    assert device.runner.ignored == 1
    assert device.runner.state.phase is Phase.IDLE


def test_a_submit_without_its_run_counts_in_the_run_of_its_code_alone() -> None:
    brief, context = BriefSubmits(None).brief(submit(), b"1", manifest(), coded=True)
    payload = add_mac(KEY, SUBMIT, encode(brief), context)

    assert not decode(Submit, verified_in(KEY, SUBMIT, payload, (run_context(RUN),))[0]).run
    for others in ((run_context("other"),), ()):
        with pytest.raises(ProtocolError, match="not authentic"):
            verified_in(KEY, SUBMIT, payload, others)


def test_a_submit_of_another_run_than_the_manifests_says_its_run() -> None:
    assert BriefSubmits(None).brief(submit(run="former"), b"1", manifest(), coded=True) == (submit(run="former"), b"")
    assert BriefSubmits(None).brief(submit(), b"1", manifest(), coded=False) == (submit(), b"")


def test_a_submit_whose_run_nothing_says_is_ignored(tmp_path: Path) -> None:
    runner = Site(tmp_path / "run").start()
    runner.deliver(Delivery(SUBMIT, encode(msgspec.structs.replace(submit(run=TASK_PLAN.run), run=""))))
    assert runner._counts["ignored"] == 1


_EVENTS = st.one_of(
    st.tuples(st.just("submit"), st.integers(1, 2), st.sampled_from(("lost", "refused", "accepted"))),
    st.tuples(st.sampled_from(("agent restarts", "gateway restarts", "manifest"))),
)


@given(st.lists(_EVENTS, max_size=30))
def test_a_gateway_hears_of_process_and_inputs_what_the_agent_says_whatever_is_lost(events: list[Any]) -> None:
    """A submit whose manifest is late may lack some of it, once; one that is said again never does."""
    agent, gateway, start, seen = BriefSubmits(None), SubmitsHeard(), 1, 1
    for number, (event, *how) in enumerate(events):
        match event:
            case "agent restarts":
                agent = BriefSubmits(None)
            case "gateway restarts":
                gateway, start = SubmitsHeard(), start + 1
            case "manifest":
                seen = start
            case _:
                factor, fate = how
                said = msgspec.structs.replace(submit(), x_mean=float(factor), peak_memory_mb=100 * factor)
                brief, _ = agent.brief(said, b"%d" % number, manifest(incarnation=seen), coded=False)
                again, _ = agent.brief(said, b"%d" % number, manifest(incarnation=start), coded=False)
                if fate != "lost":
                    heard = gateway.whole("pi-1", brief, brief.run)
                    assert heard == said or seen != start
                assert gateway.whole("pi-1", again, again.run) == said
                seen = start
                if fate == "accepted":
                    agent.accept()


def test_an_agent_says_what_is_steady_once_in_each_start_of_the_gateway() -> None:
    agent, sizes = BriefSubmits(None), []
    for number, incarnation in enumerate((1, 1, 1, 2, 2)):
        brief, _ = agent.brief(submit(), b"%d" % number, manifest(incarnation=incarnation), coded=True)
        agent.accept()
        sizes.append(len(encode(brief)))

    assert sizes[0] == sizes[3] > sizes[1] + 5
    assert sizes[1] == sizes[2] == sizes[4]
