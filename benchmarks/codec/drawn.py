"""Drawn updates: normal values under a mask at random places, so nothing is clustered that would be cheaper."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.codec.row import DRAWN, MAGNITUDE_BYTES, Row, copy_mb_s, entropy, mb_s, seconds
from fedprune.codecs import Codec, Compressed, Key, decode_update, encode_update
from fedprune.codecs.signed_coder import SignedCoder
from fedprune.codecs.ternary import signs_of
from fedprune.model.tensors import Array, Mask, TensorClass, TensorSpec, TensorTable
from fedprune.pruning.masks import take_kept

_KEY = Key(1, 0, "agent-0")
_SPARSITY = 0.9


class DrawnUpdate:
    """An update whose tensors have `shapes`; those of two axes or more are pruned."""

    def __init__(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        chance = np.random.default_rng(1)
        kinds = [TensorClass.PRUNABLE if len(shape) > 1 else TensorClass.DENSE for shape in shapes]
        self._table = TensorTable(
            tuple(
                TensorSpec(f"tensor-{number}", shape, "float32", kind, f"layer-{number // 2}")
                for number, (shape, kind) in enumerate(zip(shapes, kinds, strict=True))
            )
        )
        self._delta: dict[str, Array] = {}
        self._mask: dict[str, NDArray[np.bool_]] = {}
        for spec in self._table:
            self._delta[spec.name] = chance.standard_normal(spec.shape, np.float32)
            if spec.kind is TensorClass.PRUNABLE:
                self._mask[spec.name] = chance.random(spec.shape, np.float32) >= _SPARSITY
                self._delta[spec.name] *= self._mask[spec.name]

    @property
    def parameters(self) -> int:
        return self._table.parameters

    def measure(self, codec: Codec, repetitions: int) -> Row:
        blob, sent = self._encode(codec)
        encoding = seconds(lambda: self._encode(codec), repetitions)
        decoding = seconds(lambda: decode_update(blob, self._table, self._mask, codec, _KEY), repetitions)
        vectors = list(sent.tensors.values())
        position_bytes, position_entropy = self._positions(codec, sent)
        value_bytes, value_entropy = len(codec.values.encode(vectors)), entropy(vectors)
        if codec.remembers:
            value_bytes, position_entropy, value_entropy = MAGNITUDE_BYTES, position_entropy + value_entropy, 0.0
        return Row(
            of=DRAWN,
            chain=str(codec),
            messages=1,
            parameters=self.parameters,
            sparsity=_SPARSITY,
            encode_mb_s=mb_s(self.parameters, encoding),
            decode_mb_s=mb_s(self.parameters, decoding),
            memcpy_mb_s=copy_mb_s(self.parameters, repetitions),
            bytes=len(blob),
            position_bytes=position_bytes,
            position_entropy_bytes=round(position_entropy, 1),
            value_bytes=value_bytes,
            value_entropy_bytes=round(value_entropy, 1),
        )

    def _positions(self, codec: Codec, sent: Compressed) -> tuple[int, float]:
        """Bytes of the positions, with their signs where the codec remembers, and the entropy of the positions."""
        masks = [self._mask.get(spec.name, np.ones(spec.shape, np.bool_)) for spec in self._table]
        unmoved = [np.zeros_like(mask) for mask in masks]
        if codec.remembers:
            chosen, negative = np.concatenate(list(sent.support.values())), signs_of(list(sent.tensors.values()))
            coded = SignedCoder(masks, unmoved).encode(chosen, negative, None)
        elif codec.positions is not None:
            coded = codec.positions(masks, unmoved).encode(np.concatenate(list(sent.support.values())))
        else:
            return 0, 0.0
        return len(coded), entropy(sent.support.values())

    def _encode(self, codec: Codec) -> tuple[bytes, Compressed]:
        alive = {name: _alive(array, self._mask, name) for name, array in self._delta.items()}
        sent = codec.compress(alive, codec.init(self._table), _KEY)
        return encode_update(sent, {}, self._mask, self._table, codec, mask_is_known=True), sent


def _alive(array: Array, mask: Mask, name: str) -> Array:
    return take_kept(array, mask[name]) if name in mask else array.reshape(-1)
