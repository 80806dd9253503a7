"""TensorFlow, tf_keras and TF-MOT, imported quietly and without Keras 3. Importing this takes seconds.

Two habits of theirs are kept from an agent. Their C++ side writes a dozen lines to file descriptor 2 while it
loads, before any of its own settings takes effect (CUDA drivers that it did not find, kernels that it chose). And
both TensorFlow and TF-MOT load Keras 3 although only Keras 2 is used here: with what that loads in turn, a second
and some 90 MB.

A third costs whoever builds a task. For each call of LSTM and GRU tf_keras also traces a variant for NVIDIA's
processors, and the gradients of that: most of the time that building, copying and proving such a network takes. What
these compute where there is such a processor is another sum than a Pi's, so the variant is left out.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fedprune.system.quiet import without_lines

_NOISE = re.compile(rb"(WARNING: All log messages before absl::|[IW]\d{4} \d\d:\d\d:)")
_FATAL_ONLY = "3"


@contextmanager
def _without_keras_3() -> Iterator[None]:
    """TF-MOT looks for a module that Keras 3 does not have, and falls back whether or not it could load Keras 3."""
    loaded = sys.modules.pop("keras", None)
    sys.modules["keras"] = None  # type: ignore[assignment]  # what makes an import fail at once
    try:
        yield
    finally:
        del sys.modules["keras"]
        if loaded is not None:
            sys.modules["keras"] = loaded


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", _FATAL_ONLY)
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
with without_lines(_NOISE.match), _without_keras_3():
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras
tf.get_logger().setLevel("ERROR")
# LSTM and GRU trace a variant for cuDNN beside each one that runs here, which takes longer than the rest of a build.
keras.src.layers.rnn.gru_lstm_utils.function_register = lambda *_, **__: None

__all__ = ["keras", "tf", "tfmot"]
