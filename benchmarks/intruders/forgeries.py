"""Forged messages: a broker that was taken over, or whoever may publish anything, speaks to agents that have joined."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from benchmarks.intruders.honest import RUN, START, HonestGateway
from benchmarks.intruders.site import Attack, Site, answer
from fedprune.identity.manifest_signer import ManifestSigner
from fedprune.wire.messages import (
    UPDATE_TAG_BYTES,
    Accepted,
    Chunk,
    Content,
    Manifest,
    Message,
    Reason,
    Rejected,
    decode,
    encode,
    kind_of,
)

_ROUND = 5


def forge_messages(site: Site) -> Iterator[Attack]:
    """Try all of them. Each agent's log has room for ten in a minute."""
    yield from _without_the_devices_key(site)
    yield from _without_the_gateways_key(site)


def _without_the_devices_key(site: Site) -> Iterator[Attack]:
    log, gateway = site.start_agent("victim"), HonestGateway.of(site)
    forgeries: dict[str, Message] = {
        "an assignment": gateway.assignment(_ROUND),
        "an acceptance": Accepted(round=0, update=bytes(UPDATE_TAG_BYTES)),
        "a rejection": Rejected(reason=Reason.FINISHED),
    }
    with site.rogue_broker() as rogue:
        for what, message in forgeries.items():
            topic, payload = site.topics.down("victim", kind_of(message)), encode(message)
            said = answer(log, f"{topic}'", partial(rogue.publish, topic, payload))
            yield Attack(f"a broker that was taken over forges {what}", "it is not authentic" in said, said)


def _without_the_gateways_key(site: Site) -> Iterator[Attack]:
    """The intruder even has the devices' keys, as who stood between at joining."""
    gateway, round_ = HonestGateway.of(site), site.topics.round
    stranger = ManifestSigner(site.make_gateway("forger", 1).path, site.topics.federation)
    plain = Manifest(run=RUN, incarnation=START, round=_ROUND + 1)
    foreign = dataclasses.replace(gateway, signer=stranger)
    signed = decode(Manifest, gateway.manifest(_ROUND))
    forged = {
        "a manifest without a signature": (encode(plain), _UNSIGNED),
        "a manifest with a stranger's signature": (foreign.manifest(_ROUND + 1), _WRONG),
        "a manifest with the signature of another round": (
            encode(msgspec.structs.replace(signed, round=_ROUND + 1)),
            _WRONG,
        ),
        "a manifest of an epoch that nobody opened": (
            encode(msgspec.structs.replace(signed, epoch=9)),
            "the manifest of epoch 9, start 3, round 6 cannot be proven yet",
        ),
    }
    with site.rogue_broker() as rogue:

        def all_hear(payload: bytes, *, retain: bool = False) -> Callable[[], object]:
            return lambda: rogue.publish(round_, payload, retain=retain)

        def hears(message: Message) -> Callable[[], object]:
            return lambda: rogue.publish(*gateway.to("fresh", message))

        rogue.publish(round_, encode(plain), retain=True)
        fresh = site.start_agent("fresh")
        said = answer(fresh, _UNSIGNED, from_its_start=True)
        yield Attack("a forged manifest is retained, and found at connecting", bool(said), said)
        said = answer(fresh, _STRANGER, hears(foreign.assignment(_ROUND)))
        yield Attack("a stranger's root key says who signs", bool(said), said)
        answer(fresh, "cannot be proven yet", all_hear(foreign.manifest(_ROUND), retain=True))
        said = answer(fresh, f"ignored a manifest that was kept: {_WRONG}", hears(gateway.assignment(_ROUND)))
        yield Attack("a manifest with a stranger's signature is retained", bool(said), said)
        at_work = f"round {_ROUND + 1}: fetching"
        said = answer(fresh, at_work, all_hear(gateway.manifest(_ROUND), retain=True))
        yield Attack("the gateway's own manifest and work", not said, said, must_pass=True)
        for what, (payload, why) in forged.items():
            said = answer(fresh, why, all_hear(payload))
            yield Attack(f"a broker that was taken over forges {what}", bool(said), said)
        chunk = encode(Chunk(digest=gateway.terms.task.digest, index=0, data=b"?"))
        said = answer(
            fresh, "arrived with another digest", partial(rogue.publish, site.topics.content(bytes(32)), chunk)
        )
        yield Attack("a broker that was taken over sends other chunks than the model's", bool(said), said)
        other = msgspec.structs.replace(gateway.terms, task=Content(digest=hashlib.sha256(b"").digest(), size=1))
        work = msgspec.structs.replace(gateway.assignment(_ROUND), terms=other)
        said = answer(fresh, "its terms, or its task, are not those that the gateway has signed", hears(work))
        yield Attack("who has the device's key assigns a task that is not the signed one", bool(said), said)
        is_idle = "waiting for work" in fresh.read_text().rpartition(at_work)[2]
        yield Attack("after all that the agent is still in its round", is_idle, must_pass=True)
        rogue.publish(round_, b"", retain=True)


_UNSIGNED = "it is not signed"
_STRANGER = "another root key than the one that this device trusts"
_WRONG = "its signature is not the gateway's"
