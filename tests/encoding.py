"""Updates as bytes, as an agent writes them that owes nothing."""

from __future__ import annotations

from fedprune.codecs import Key, Update, encode_update, parse_codec
from fedprune.model.tensors import Array, TensorClass, TensorTable
from fedprune.pruning.masks import take_kept

KEY = Key(1, 0, "pi-1")


def alive_values(update: Update, table: TensorTable) -> dict[str, Array]:
    """The values of its delta that its mask keeps, each tensor's in one dimension."""
    return {
        spec.name: take_kept(update.delta[spec.name], update.mask[spec.name])
        if spec.kind is TensorClass.PRUNABLE
        else update.delta[spec.name].reshape(-1)
        for spec in table.of(TensorClass.PRUNABLE, TensorClass.DENSE)
    }


def encoded(update: Update, table: TensorTable, description: str, *, mask_is_known: bool, key: Key = KEY) -> bytes:
    codec = parse_codec(description)
    sent = codec.compress(alive_values(update, table), codec.init(table), key)
    return encode_update(sent, update.statistics, update.mask, table, codec, mask_is_known=mask_is_known)
