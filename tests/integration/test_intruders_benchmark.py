"""The attacks of `benchmarks.intruders` on what devices obey, and on what passes the network: each comes out right."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.children import Children
from benchmarks.intruders.eavesdropping import listen
from benchmarks.intruders.flooding import flood
from benchmarks.intruders.forgeries import forge_messages
from benchmarks.intruders.replays import replay_and_restore
from benchmarks.intruders.site import Site
from tests.brokers import MISSING

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def test_forged_and_old_messages_steer_nobody_and_a_listener_reads_nothing(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        site = Site(tmp_path, children)
        attacks = [*forge_messages(site), *replay_and_restore(site), *listen(site)]

    assert not [attack for attack in attacks if not attack.is_right]
    assert len({attack.tried for attack in attacks}) >= 20
    logs = "".join(log.read_text() for log in (tmp_path / "logs").iterdir())
    keys = [line for file in tmp_path.glob("*/*.key") for line in file.read_text().splitlines() if len(line) > 40]
    assert keys
    assert not [key for key in keys if key in logs]


def test_a_captured_device_that_sends_without_end_stops_no_round_of_the_others(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        attacks = list(flood(Site(tmp_path, children)))

    assert [(attack.tried, attack.is_right) for attack in attacks] == [
        ("a device sends as fast as the broker takes it", True),
        ("two rounds of the others meanwhile", True),
    ]
