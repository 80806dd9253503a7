"""A federation whose device has more data than memory: the benchmark's own, with less of both."""

from __future__ import annotations

from pathlib import Path

from benchmarks import large_data


def test_an_agent_trains_an_epoch_on_data_that_do_not_fit_into_its_memory(tmp_path: Path) -> None:
    """160 MB of examples in a control group of 128 MB, where one can be made; its own peak is bounded in any case."""
    found = large_data.measure(tmp_path, 160 * 10**6)

    assert found.data_mb > large_data.LIMIT_BYTES / 1e6
    assert found.evaluated == 1020
    assert found.steps == -(-found.examples // 32)
    if found.limit_mb is not None:  # a device with memory for all of it takes it
        assert found.peak_mb < large_data.LIMIT_BYTES / 1e6
