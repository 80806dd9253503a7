"""The bytes on the wire, fixed: old blobs stay readable, and equal inputs give equal bytes on every machine.

Run this file to write the golden bytes anew, and only together with a new magic: other releases read the old ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedprune.codecs import (
    NOTHING_SENT,
    Values,
    apply_delta,
    decode_model,
    decode_update,
    delta_key,
    encode_delta,
    encode_model,
    encode_replay,
    encode_signs,
    encode_update,
    moved_since,
    parse_codec,
    parse_model_codec,
    recall,
)
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import TensorClass, TensorSpec, TensorTable, weights_digest
from tests.encoding import KEY, encoded, update_of, whole_delta

GOLDEN = Path(__file__).parent.parent / "golden" / "codecs.json"

TABLE = TensorTable(
    (
        TensorSpec("full", (2, 3), "float32", TensorClass.PRUNABLE, "full"),
        TensorSpec("half", (4, 3, 2), "float32", TensorClass.PRUNABLE, "half"),
        TensorSpec("thin", (30, 20), "float32", TensorClass.PRUNABLE, "thin"),
        TensorSpec("bias", (5,), "float32", TensorClass.DENSE, "thin"),
        TensorSpec("mean", (3,), "float32", TensorClass.STATISTICS, "norm"),
        TensorSpec("seen", (2,), "int32", TensorClass.INTEGER, "seen"),
    )
)

CODECS = (
    "mask | fp32",
    "mask | fp16",
    "mask | feedback(2) | int8",
    "mask | clip(2) | feedback(2) | topk(0.2) | ternary | rice",
    "mask | topk(0.1) | ternary | context",
    "mask | budget(30) | ternary | context",
    "mask | feedback(2) | topk(0.1) | ternary | history",
    "mask | threshold(2.5) | fp16 | bitmap",
    "mask | random_mask(0.2) | quantise(4)",
    "mask | subsample(0.2) | rotate | quantise(2)",
    "mask | low_rank(2) | quantise(8)",
)
DELTAS = (
    "mask | int8",
    "mask | topk(0.1) | ternary | rice",
    "mask | topk(0.1) | ternary | context",
    "mask | random_mask(0.2) | rotate | quantise(4)",
    "mask | topk(0.1) | ternary | history",
)


def _cases() -> dict[str, dict[str, str]]:
    """Each case's blob in hex, and the digest of everything decoded from it."""
    keyed = Keyed(1, "golden")
    weights: dict[str, Any] = {
        spec.name: keyed.uniform(spec.size, -3.0, 3.0).reshape(spec.shape).astype(spec.dtype) for spec in TABLE
    }
    mask = {
        "full": np.ones((2, 3), np.bool_),
        "half": weights["half"] > 0.0,
        "thin": weights["thin"] > 2.8,
    }
    delta = {name: weights[name] for name in ("full", "half", "thin", "bias")}
    update = update_of(delta, {"mean": weights["mean"]}, mask)
    cases = {}
    for values in Values:
        blob = encode_model(weights, mask, TABLE, values)
        cases[f"model, {values}"] = _case(blob, *decode_model(blob, TABLE))
    for codec, known_mask in ((codec, known_mask) for codec in CODECS for known_mask in (mask, None)):
        blob = encoded(update, TABLE, codec, mask_is_known=known_mask is not None)
        decoded = decode_update(blob, TABLE, known_mask, parse_codec(codec), KEY)
        name = f"update, {codec}, {'own' if known_mask is None else 'shared'} mask"
        cases[name] = _case(blob, {**whole_delta(decoded, TABLE), **decoded.statistics}, decoded.mask)
    return cases | _deltas(weights, mask) | {"update by its agent's history": _by_history(update)}


def _by_history(update: Any) -> dict[str, str]:
    """An update whose agent has sent two others before."""
    codec, statistics = parse_codec("mask | feedback(2) | topk(0.1) | ternary | history"), update.statistics
    remembered: list[bytes] = []
    for share in (0.3, 0.2, 0.1):
        delta = {name: np.where(np.abs(each) > 3.0 - 6.0 * share, each, 0.0) for name, each in update.delta.items()}
        sent = codec.compress(delta, {}, KEY)
        blob = encode_update(
            sent, statistics, update.mask, TABLE, codec, mask_is_known=True, history=recall(remembered, TABLE)
        )
        found = decode_update(blob, TABLE, update.mask, codec, KEY, remembered=remembered)
        remembered.insert(0, encode_signs(found.delta, update.mask, TABLE))
    return _case(blob, {**whole_delta(found, TABLE), **found.statistics}, found.mask)


def _deltas(weights: dict[str, Any], mask: Any) -> dict[str, dict[str, str]]:
    """Replays of three deltas, with what the last one leads to; and a whole model, with what they sent."""
    table = TensorTable(tuple(spec for spec in TABLE if spec.kind is not TensorClass.STATISTICS))
    base = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in table}
    cases = {}
    for chain in DELTAS:
        models = parse_model_codec(f"fp16 + {chain}")
        assert models.deltas is not None
        found, sent, deltas = base, NOTHING_SENT, list[bytes]()
        for version in (1, 2, 3):
            key, moved = delta_key(7, version), moved_since(base, found, table)
            deltas.append(encode_delta(weights, found, mask, table, models.deltas, key, moved, sent))
            found, sent, model = apply_delta(
                found, deltas[-1], mask, table, models.deltas, key, models.values, moved, sent
            )
        cases[f"replay, {chain}"] = _case(encode_replay(deltas), found, mask)
        if sent:
            blob = model + sent
            cases["model by deltas"] = _case(blob, *models.decode(blob, table)[:2])
    return cases


def _case(blob: bytes, tensors: Any, mask: Any) -> dict[str, str]:
    masks = {f"{name} mask": kept for name, kept in mask.items()}
    return {"blob": blob.hex(), "decoded": weights_digest({**tensors, **masks})}


@pytest.mark.parametrize("name", _cases())
def test_bytes_and_what_they_decode_to_have_not_drifted(name: str) -> None:
    assert _cases()[name] == json.loads(GOLDEN.read_text())[name]


def test_every_positions_scheme_occurs() -> None:
    """0 nothing, 1 bitmap, 2 Rice: read off where each tensor of the int8 model begins."""
    blob = bytes.fromhex(json.loads(GOLDEN.read_text())["model, int8"]["blob"])
    half = 5 + 1 + 4 + 6
    assert (blob[5], blob[half]) == (0, 1)
    thin = half + 1 + 3 + 4 + sum(byte.bit_count() for byte in blob[half + 1 : half + 4])
    assert blob[thin] == 2


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(_cases(), indent=1) + "\n")
