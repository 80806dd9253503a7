"""The code that every part of fedprune agrees on: messages, tensors, masks, codecs, transfer, transport."""

__version__ = "0.1.0"
