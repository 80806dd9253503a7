"""The benchmark of codecs: its rows add up."""

from __future__ import annotations

from pathlib import Path

import msgspec
from click.testing import CliRunner

from benchmarks.codec import Row, main

_HEADER = 7


def test_every_byte_of_an_update_is_a_position_or_a_value(tmp_path: Path) -> None:
    CliRunner().invoke(main, ["--quick", "--json", str(tmp_path / "rows.json")])  # how fast it is here does not matter

    rows = msgspec.json.decode((tmp_path / "rows.json").read_bytes(), type=list[Row])
    assert all(row.bytes == _HEADER + row.position_bytes + row.value_bytes for row in rows)
    by_coder = {row.chain.split()[-1]: row.position_bytes for row in rows}
    assert by_coder["context"] < by_coder["bitmap"]
    assert by_coder["rice"] < by_coder["bitmap"]
