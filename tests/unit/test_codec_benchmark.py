"""The benchmark of codecs: its rows add up."""

from __future__ import annotations

from pathlib import Path

import msgspec
from click.testing import CliRunner

from aggregator.presets import chains
from benchmarks.codec.__main__ import claims, main
from benchmarks.codec.row import UPDATES, Row

_HEADER, _HISTORY_HEADER = 7, 8


def row(of: str, chain: str, position_bytes: int) -> Row:
    return Row(
        of=of, chain=chain, messages=1, parameters=100_000, sparsity=0.9, encode_mb_s=100.0, decode_mb_s=100.0,
        memcpy_mb_s=1000.0, bytes=8 + position_bytes + 4, position_bytes=position_bytes, position_entropy_bytes=100.0,
        value_bytes=4, value_entropy_bytes=0.0,
    )  # fmt: skip


def test_every_byte_of_an_update_is_a_position_or_a_value(tmp_path: Path) -> None:
    CliRunner().invoke(main, ["--quick", "--json", str(tmp_path / "rows.json")])  # how fast it is here does not matter

    rows = msgspec.json.decode((tmp_path / "rows.json").read_bytes(), type=list[Row])
    for each in rows:
        header = _HISTORY_HEADER if each.coder == "history" else _HEADER
        assert each.bytes == header + each.position_bytes + each.value_bytes
    assert chains(rows[0].parameters)[0] in {each.chain for each in rows}
    by_coder = {each.coder: each.position_bytes for each in rows if "topk" in each.chain}
    assert by_coder["context"] < by_coder["bitmap"]
    assert by_coder["rice"] < by_coder["bitmap"]


def test_an_entropy_is_claimed_of_what_was_learned_and_coded_by_a_history() -> None:
    few, many = row(UPDATES, "mask | history", 85), row(UPDATES, "mask | history", 86)

    assert all(claims([few]).values())
    assert not all(claims([many]).values())
    assert all(claims([row("drawn", "mask | history", 86), row(UPDATES, "mask | context", 86)]).values())
