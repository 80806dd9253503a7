"""Credentials and access list, at the broker that runs: what is published is seen to be taken, and what comes back.

A message that an access list denies is acknowledged in MQTT 3.1.1, and a subscription that will not be served is
granted; so MQTT 5 is asked (`fedprune.wire.trial`), and the aggregator, whose answer proves the way back. A check-in
without a ticket has an answer, and is remembered by nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from fedprune import __version__
from fedprune.doctor.finding import Finding, Verdict, failed, ok, unknown
from fedprune.errors import FedpruneError, ProtocolError
from fedprune.wire.authentication import add_mac, verified
from fedprune.wire.broker import Broker
from fedprune.wire.messages import DOWNLINK, CheckIn, Presence, Reason, Rejected, decode, encode
from fedprune.wire.topics import Topics
from fedprune.wire.trial import Answer, Trial
from fedprune.wire.versions import SPOKEN

_CREDENTIALS, _ACCESS = "credentials", "access list"
_PATIENCE_S = 10.0
"""For the aggregator's answer."""

_NOBODY = "fedprune-doctor"
"""An agent that there is not: what is said to it, nobody hears."""
_NO_CONTENT = bytes(32)
_UPGRADE = "upgrade the older side"
_RIGHTS = "let the broker's access list allow it, as docs/PROTOCOL.md has it under `What a broker must allow`"


def examine_agent_login(
    broker: Broker, topics: Topics, agent: str, key: bytes | None, examples: int
) -> Iterator[Finding]:
    """Log in as an agent that does not run: a connection of the same name would be ended.

    `examples`: how many it holds. `key` authenticates its messages, if it has one.
    """

    def rights(trial: Trial) -> Iterator[Finding]:
        yield from _agent_rights(trial, topics, agent, key, examples)

    yield from _examine_login(broker, topics.agent_client(agent), rights)


def examine_aggregator_login(broker: Broker, topics: Topics) -> Iterator[Finding]:
    """Log in as an aggregator that does not run."""
    yield from _examine_login(broker, topics.aggregator_client, lambda trial: _aggregator_rights(trial, topics))


def _examine_login(broker: Broker, client_id: str, rights: Callable[[Trial], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        with Trial(broker, client_id) as trial:
            yield ok(_CREDENTIALS, f"{broker.url} lets {_who(broker)} in")
            try:
                yield from rights(trial)
            except FedpruneError as error:
                yield failed(_ACCESS, str(error))
    except FedpruneError as error:
        yield failed(_CREDENTIALS, f"{error}{_hint(broker)}")
        yield unknown(_ACCESS, "it cannot be tried before the broker lets this client in")


def _who(broker: Broker) -> str:
    if broker.username is not None:
        return f"the user {broker.username}"
    return "this certificate" if broker.tls.certificate is not None else "clients without a name"


def _hint(broker: Broker) -> str:
    if broker.username is None:
        return ""
    where = broker.password_file or "the environment variable FEDPRUNE_BROKER_PASSWORD"
    return f" (a wrong password looks like this: {broker.username}'s is taken from {where})"


def _agent_rights(trial: Trial, topics: Topics, agent: str, key: bytes | None, examples: int) -> Iterator[Finding]:
    filters = [topics.round, *(topics.down(agent, kind) for kind in DOWNLINK)]
    denied = [f"subscribe to {topic_filter}" for topic_filter in filters if not trial.subscribe(topic_filter)]
    status, up = topics.status(agent), topics.up(agent, "check-in")
    gone = msgspec.json.encode(Presence(state="offline", agent=agent, version=__version__))
    if trial.publish(status, gone, retain=True) is Answer.DENIED:
        denied.append(f"publish on {status}")
    answer = trial.publish(up, add_mac(key, up, encode(CheckIn(examples=max(examples, 1), trainer="litert"))))
    if answer is Answer.DENIED:
        denied.append(f"publish on {up}")
    if denied:
        yield failed(_ACCESS, f"{agent} may not {' nor '.join(denied)}", _RIGHTS)
        return
    way_back = _judge_way_back(trial, topics, agent, up, answer)
    yield way_back
    if way_back.verdict is Verdict.OK:
        yield from _judge_answers(trial, topics, agent, key)


def _judge_way_back(trial: Trial, topics: Topics, agent: str, up: str, answer: Answer) -> Finding:
    down = topics.down(agent, "")
    if answer is Answer.NOBODY:
        return unknown(
            _ACCESS, f"{agent} may publish on {up}; no aggregator is connected, whose answer would prove the way back"
        )
    if not trial.hears(lambda delivery: delivery.topic.startswith(down), _PATIENCE_S):
        told = f"{agent} published on {up}, and nothing came back on {down}#"
        if answer is Answer.UNTOLD:
            return failed(_ACCESS, told, f"does the aggregator run? If so, {_RIGHTS}")
        return failed(
            _ACCESS,
            told,
            f"{_RIGHTS}: {agent} must be let read there; who lacks the device's key is not answered either",
        )
    if not trial.hears(lambda delivery: delivery.topic == topics.round, 0.0):
        return failed(_ACCESS, f"{agent} does not get the manifest, which is retained on {topics.round}", _RIGHTS)
    return ok(_ACCESS, f"{agent} publishes, and the aggregator's answer comes back")


def _judge_answers(trial: Trial, topics: Topics, agent: str, key: bytes | None) -> Iterator[Finding]:
    """What the aggregator's answer tells beside having come: that it has the device's key, and speaks its version."""
    down = topics.down(agent, "rejected")
    for delivery in trial.deliveries:
        if delivery.topic != down:
            continue
        try:
            rejected = decode(Rejected, verified(key, down, delivery.payload))
        except ProtocolError as error:
            yield failed("protocol", f"the aggregator's answer: {error}")
            return
        if rejected.reason is Reason.UNREADABLE:
            yield failed("protocol", f"the aggregator cannot read what this version says ({rejected.detail})", _UPGRADE)
            return
    yield ok("protocol", f"both sides speak {SPOKEN}")


def _aggregator_rights(trial: Trial, topics: Topics) -> Iterator[Finding]:
    filters = (topics.all_up, topics.all_status, topics.round)
    denied = [f"subscribe to {topic_filter}" for topic_filter in filters if not trial.subscribe(topic_filter)]
    for topic in (topics.round, topics.down(_NOBODY, "rejected"), topics.content(_NO_CONTENT)):
        answer = trial.publish(topic, b"")  # which everybody takes for no message
        if answer is Answer.DENIED:
            denied.append(f"publish on {topic}")
        if answer is Answer.UNTOLD:
            yield unknown(_ACCESS, "the broker does not speak MQTT 5, and so does not tell what it denies")
            return
    if denied:
        yield failed(_ACCESS, f"the aggregator may not {' nor '.join(denied)}", _RIGHTS)
    else:
        yield ok(_ACCESS, "the aggregator may publish on all of its topics, and subscribe to them")
