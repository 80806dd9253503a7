"""A device that was captured sends as fast as the broker takes it, while two others do rounds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import numpy as np

from benchmarks.intruders.site import Attack, Site, answer
from fedprune.data import Dataset
from fedprune.identity.audit import Client
from fedprune.identity.joining import CERTIFICATE, KEY

_BYSTANDERS = ("bystander-1", "bystander-2")
_SHAPE, _CLASSES, _EXAMPLES = (12, 12, 1), 3, 24
_MESSAGE = bytes(1000)
_BEHIND_S = 0.001
"""For which the flood waits while its link has no room."""

_TASK = f"""\
name = "tiny"
model = {{ builtin = "cnn-108k", input_shape = {list(_SHAPE)}, outputs = {_CLASSES} }}
training = {{ steps_per_round = 4, batch_size = 8 }}
[pruning.schedule]
kind = "polynomial"
initial_sparsity = 0.0
target_sparsity = 0.8
begin_step = 0
end_step = 20
frequency = 4
"""
_FEDERATION = f"""\
task = "tiny.fedtask"
rounds = {{ count = 10000, quorum = 1.0, deadline_s = 600.0, gather_s = 600.0, fleet = {list(_BYSTANDERS)} }}
"""


def flood(site: Site) -> Iterator[Attack]:
    """The broker holds so much for the aggregator, and drops what comes beyond: also what the others send."""
    _queue_federation(site)
    examples = Dataset(np.zeros((_EXAMPLES, *_SHAPE), np.float32), np.arange(_EXAMPLES, dtype=np.int64) % _CLASSES)
    for name in _BYSTANDERS:
        site.start_agent(name, examples)
    log = site.children.log("gateway")
    answer(log, "round     2/", from_its_start=True)
    with _sending(site):
        said = answer(log, "captured floods: ", from_its_start=True)
        yield Attack("a device sends as fast as the broker takes it", bool(said), said)
        went_on = answer(log, ": 2 agents") and answer(log, ": 2 agents")
        yield Attack("two rounds of the others meanwhile", not went_on, must_pass=True)


def _queue_federation(site: Site) -> None:
    (site.directory / "tiny.toml").write_text(_TASK)
    (site.directory / "federation.toml").write_text(_FEDERATION)
    bundle, config = str(site.directory / "tiny.fedtask"), str(site.directory / "federation.toml")
    site.children.run("task", "task", "build", str(site.directory / "tiny.toml"), "--out", bundle)
    site.children.run("queue", "gateway", "queue", "add", "--dir", str(site.gateway.path), "--config", config)


@contextmanager
def _sending(site: Site) -> Iterator[None]:
    """Meanwhile whoever has the files of a device that has joined publishes without a pause."""
    place, topic, is_over = site.join(site.token("captured"), "captured"), site.topics.up("captured", "chunk"), Event()
    with Client(site.broker(place / CERTIFICATE, place / KEY), site.topics.agent_client("captured")) as device:

        def send() -> None:
            while not is_over.is_set():
                if not device.publish(topic, _MESSAGE):
                    is_over.wait(_BEHIND_S)

        author = Thread(target=send)
        author.start()
        try:
            yield
        finally:
            is_over.set()
            author.join()
