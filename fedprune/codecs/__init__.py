"""The codec: how whole updates and models become bytes.

Updates go through two layers. *Compressors* take whole updates and may lose something: links joined by `chain`
(`links`), one of which may keep what is lost for a later round (`feedback`). *Byte coders* write what is left,
positions and values, and lose nothing. A `Codec` is a chain with its byte coders; its description says it all, and
`parse_codec` makes a codec of it.

What counts is what the receiver decodes: a sender that needs to know asks `Codec.arrived`.
"""

from __future__ import annotations

from fedprune.codecs.codec import Codec, Compressed
from fedprune.codecs.history import NO_HISTORY, History, OtherHistory, encode_signs, recall
from fedprune.codecs.links import Key
from fedprune.codecs.model_bytes import Values, decode_model, encode_model
from fedprune.codecs.model_codec import (
    DecodedModel,
    ModelCodec,
    describe_model_codec,
    parse_model_codec,
    parted_model_codec,
)
from fedprune.codecs.model_delta import apply_delta, decode_replay, delta_key, encode_delta, encode_replay
from fedprune.codecs.model_history import NOTHING_SENT, history_of
from fedprune.codecs.moved import NOTHING_MOVED, moved_since
from fedprune.codecs.notation import DEFAULT_CODEC, parse_codec
from fedprune.codecs.update import Update, check_magnitudes, check_update
from fedprune.codecs.update_bytes import UpdateDecoder, alive_sizes, decode_update, encode_update
from fedprune.codecs.votes import encode_votes

__all__ = [
    "DEFAULT_CODEC",
    "NOTHING_MOVED",
    "NOTHING_SENT",
    "NO_HISTORY",
    "Codec",
    "Compressed",
    "DecodedModel",
    "History",
    "Key",
    "ModelCodec",
    "OtherHistory",
    "Update",
    "UpdateDecoder",
    "Values",
    "alive_sizes",
    "apply_delta",
    "check_magnitudes",
    "check_update",
    "decode_model",
    "decode_replay",
    "decode_update",
    "delta_key",
    "describe_model_codec",
    "encode_delta",
    "encode_model",
    "encode_replay",
    "encode_signs",
    "encode_update",
    "encode_votes",
    "history_of",
    "moved_since",
    "parse_codec",
    "parse_model_codec",
    "parted_model_codec",
    "recall",
]
