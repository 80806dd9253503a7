"""Classes of devices, and how much slower than this machine each is likely to be.

No agent has run on one of them yet: these are estimates. A training step is mostly products of matrices, so that a
core's speed is about its clock times the float32 multiplications that it completes in a cycle. Those of the Pis are
known (Cortex-A53 at 1.0 and 1.4 GHz, A72 at 1.8, A76 at 2.4); taken for this machine is a core with AVX2 at 3 GHz.
Small layers, where time goes into calls and memory, are less apart; a hot device without a heat sink is slower.
"""

from __future__ import annotations

import msgspec

BASIS = (
    "times are this machine's step, measured in one thread, times a factor from clock rates and vector units; no such "
    "device was measured, and twice or half of it is likely"
)
"""What is to be said beside each estimate."""

PROCESS_MB = 65.0
"""An agent with LiteRT before it has a graph: docs/MEASURED.md has 87 MB as the peak of one that trains CNN-108k."""

BYTES_A_PARAMETER = 27
"""What a round takes for each weight beside the graph's values, with Adam (docs/MEASURED.md: 25 to 27)."""

SHARE_FOR_A_BATCH = 0.25
"""The part of its memory that a device gives to a batch's values before it takes a smaller one (edge_agent)."""


class DeviceClass(msgspec.Struct, frozen=True):
    """`memory_mb` is all it has, `free_mb` what its system leaves; a step takes `times` as long as here."""

    name: str
    memory_mb: float
    free_mb: float
    times: float


DEVICES = (
    DeviceClass("Pi Zero 2 W", 512, 280, 24.0),
    DeviceClass("Pi 3", 1024, 700, 17.0),
    DeviceClass("Pi 4", 2048, 1600, 8.0),
    DeviceClass("Pi 5", 4096, 3500, 3.0),
    DeviceClass("phone", 4096, 1000, 3.0),
)
"""A phone of the middle class, of whose memory an app gets a part."""
