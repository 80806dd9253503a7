"""The codec: how whole updates and models become bytes.

It has two layers. A *coder* turns one vector into bytes: a `chain` of small stages, one for positions, one for values
(`stages`, `positions`, `values`); `container` lays a whole update or model out in them, tensor by tensor. A
*compressor* stands above: it takes whole updates and may lose something, which `feedback` keeps for a later round.

What counts is what the receiver decodes: a sender that needs to know decodes its own bytes.
"""

from __future__ import annotations

from fedprune.codecs.container import decode_model, decode_update, encode_model, encode_update
from fedprune.codecs.feedback import ErrorFeedback, Sent
from fedprune.codecs.update import Update, check_magnitudes, check_update
from fedprune.codecs.values import Values

__all__ = [
    "ErrorFeedback",
    "Sent",
    "Update",
    "Values",
    "check_magnitudes",
    "check_update",
    "decode_model",
    "decode_update",
    "encode_model",
    "encode_update",
]
