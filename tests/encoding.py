"""Updates of whole tensors, and as bytes, as an agent writes them that owes nothing."""

from __future__ import annotations

from fedprune.codecs import Key, Update, encode_update, parse_codec
from fedprune.model.tensors import Array, Mask, TensorClass, TensorTable, Weights
from fedprune.pruning.masks import take_kept

KEY = Key(1, 0, "pi-1")


def update_of(whole: Weights, statistics: Weights, mask: Mask) -> Update:
    """An update whose delta is that of `whole` tensors where the mask keeps them."""
    return Update(
        {name: take_kept(array, mask[name]) if name in mask else array.reshape(-1) for name, array in whole.items()},
        statistics,
        mask,
    )


def whole_delta(update: Update, table: TensorTable) -> dict[str, Array]:
    """The delta of an update as whole tensors, in table order."""
    return {
        spec.name: update.whole(spec.name, spec.shape) for spec in table.of(TensorClass.PRUNABLE, TensorClass.DENSE)
    }


def encoded(update: Update, table: TensorTable, description: str, *, mask_is_known: bool, key: Key = KEY) -> bytes:
    codec = parse_codec(description)
    sent = codec.compress(update.delta, codec.init(table), key)
    return encode_update(sent, update.statistics, update.mask, table, codec, mask_is_known=mask_is_known)
