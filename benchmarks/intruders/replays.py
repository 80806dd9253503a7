"""Old messages that are sent again, and a gateway that was restored from a backup: to a device that is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.intruders.honest import START, HonestGateway
from benchmarks.intruders.site import Attack, Site, answer
from fedprune.identity.epochs import ROOT_KEY, count_epoch, open_epoch
from fedprune.wire.messages import Message

_ROUND = 5


def replay_and_restore(site: Site) -> Iterator[Attack]:
    """Everything that is sent here the gateway has said itself, once."""
    log, before, round_ = site.start_agent("patient"), HonestGateway.of(site), site.topics.round
    with site.rogue_broker() as rogue:

        def all_hear(payload: bytes) -> Callable[[], object]:
            return lambda: rogue.publish(round_, payload)

        def hears(gateway: HonestGateway, message: Message) -> Callable[[], object]:
            return lambda: rogue.publish(*gateway.to("patient", message))

        work = hears(before, before.assignment(_ROUND))
        said = answer(log, f"round {_ROUND + 1}: fetching", all_hear(before.manifest(_ROUND)), work)
        yield Attack("the gateway's own manifest and work", not said, said, must_pass=True)
        said = answer(log, f"says epoch 1, start {START}, round {_ROUND}, ", all_hear(before.manifest(_ROUND - 1)))
        yield Attack("an older manifest is sent again, and with it an older model", bool(said), said)
        said = answer(log, f"says epoch 1, start {START - 1}, ", all_hear(before.manifest(_ROUND + 9, START - 1)))
        yield Attack("a gateway speaks that was restored from last week's backup", bool(said), said)
        said = answer(log, _SEEN, hears(before, before.assignment(_ROUND - 1)))
        yield Attack("an older assignment is sent again", bool(said), said)
        said = answer(log, _SEEN, hears(before, before.rejection(_ROUND - 1)))
        yield Attack("an older rejection is sent again", bool(said), said)

        root_key = site.gateway.path / ROOT_KEY
        open_epoch(site.gateway.directory, count_epoch(site.gateway.path, site.topics.federation, root_key))
        after = HonestGateway.of(site)
        said = answer(
            log,
            "the gateway is in epoch 2, by its root key",
            all_hear(after.manifest(0, 1)),
            hears(after, after.assignment(0, 1)),
        )
        yield Attack("the restored gateway in the epoch that its root key opened", not said, said, must_pass=True)
        said = answer(log, "this device has seen epoch 2", all_hear(before.manifest(_ROUND + 1)))
        yield Attack("a manifest of the epoch before", bool(said), said)


_SEEN = "this device has seen epoch 1"
