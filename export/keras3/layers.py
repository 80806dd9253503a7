"""Keras 3's layers, made anew in tf_keras of the settings that both have. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from fedprune.errors import TaskError
from fedprune.keras import activations
from fedprune.keras.layer import KERNEL
from fedprune.keras.layers import READERS
from fedprune.keras.stack import keras

Config = Mapping[str, Any]
"""A serialized object of Keras 3: its ``module``, ``class_name``, ``config``, and for layers ``inbound_nodes``."""

_LISTED = 16
"""Entries that a list among a layer's settings may have, but for numbers for each channel."""
_CHANNELS = 2**16


def make_layer(described: Config) -> Any:
    """The tf_keras layer of a serialized one. Raises `TaskError`, naming the layer, for what is not listed."""
    kind, config = str(described.get("class_name")), described.get("config")
    if described.get("module") != "keras.layers" or described.get("registered_name") not in (None, kind):
        refuse(described, f"is, or uses, custom code ({kind[:60]!r}); build the model from Keras' own layers")
    if kind not in _SETTINGS or not isinstance(config, dict):
        refuse(described, f"is of the kind {kind[:60]!r}; use one of these: {', '.join(sorted(_SETTINGS))}")
    settings = {"name": config["name"], "trainable": bool(config.get("trainable", True))}
    renamed = _RENAMED.get(kind, {})
    for name, value in config.items():
        if name in _SETTINGS[kind]:
            settings[renamed.get(name) or name] = _setting(described, name, value)
        elif name not in _WITHOUT_EFFECT and value not in (None, False) and (name, value) != _AS_IN_TF_KERAS:
            refuse(described, f"has {name[:60]!r}, which tf_keras does not; leave it as Keras sets it")
    apart = {name: settings.pop(name) for name in _APART if name in settings}
    made = getattr(keras.layers, kind)(**settings, **_ADDED.get(kind, {}))
    vars(made).update(apart)
    return made


def refuse(described: Config, what: str) -> NoReturn:
    """Raise `TaskError`: the serialized layer or operator `what`."""
    config = described.get("config")
    name = config.get("name") if isinstance(config, dict) else described.get("name")
    raise TaskError(f"layer {str(name)[:60]!r} {what}")


def plain(described: Config, value: Any) -> Any:
    """`value`, which is a number, text, or a short list of them: nothing that could be code."""
    if isinstance(value, dict) and value.get("class_name") == "__numpy__":
        value = value["config"]["value"]
    if isinstance(value, list):
        if len(value) > (_CHANNELS if all(isinstance(entry, int | float) for entry in value) else _LISTED):
            refuse(described, "has a list that is too long")
        return [plain(described, entry) for entry in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return refuse(described, "has a setting that is neither a number nor text; build the model from Keras' own parts")


def _setting(described: Config, name: str, value: Any) -> Any:
    if name in ("layer", "backward_layer") and isinstance(value, dict):
        return make_layer(value)
    if name.endswith("_initializer"):
        return _part(described, value, keras.initializers, _INITIALIZERS)
    if name.endswith("_constraint") or name == "activity_regularizer":
        return None if value is None else refuse(described, f"has {name}; leave it out")
    if name.endswith("_regularizer"):
        return _part(described, value, keras.regularizers, _REGULARIZERS)
    if name == "activation" and isinstance(value, dict):
        value = value.get("config") if value.get("module") == "builtins" else value
    if name in ("activation", "recurrent_activation"):
        if not isinstance(value, str) or value not in _ACTIVATIONS:
            known = ", ".join(sorted(_ACTIVATIONS))
            refuse(described, f"has the {name} {_name_of(value)!r}; use one of {known}, or a layer of its own")
        return _ACTIVATIONS[value]
    return plain(described, value)


def _name_of(value: Any) -> str:
    """What a setting is called: a serialized object goes by its class."""
    return str(value.get("class_name") if isinstance(value, dict) else value)[:60]


def _part(described: Config, value: Any, module: Any, known: Mapping[str, frozenset[str]]) -> Any:
    """An initialiser or regularizer, of the settings that tf_keras has too."""
    if not isinstance(value, dict):
        return plain(described, value)
    kind = str(value.get("class_name"))
    if kind not in known or value.get("registered_name") not in (None, kind):
        refuse(described, f"has {kind[:60]!r}; use one of {', '.join(sorted(known))}")
    config = {name: plain(described, found) for name, found in value["config"].items() if name in known[kind]}
    return getattr(module, kind)(**config)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WITHOUT_EFFECT = _names("name trainable dtype seed renorm_clipping renorm_momentum build_config")
"""Settings without a meaning for a layer that does not list them. Precision is always float32."""

_AS_IN_TF_KERAS = ("data_format", "channels_last")
"""A setting that tf_keras' layer does not have, and its only value."""

_SETTINGS: dict[str, frozenset[str]] = {
    **{kind.__name__: _names(reader.settings) for kind, reader in READERS.items()},
    "Masking": _names("mask_value"),
    "MultiHeadAttention": _names(
        f"num_heads key_dim value_dim dropout use_bias output_shape attention_axes bias_initializer bias_regularizer "
        f"activity_regularizer bias_constraint {KERNEL}"
    ),
}
"""The layers, with the settings that are taken over."""

_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
_ADDED = {"BatchNormalization": {"fused": False}}
"""Keras 3 moves the variance as it is computed, tf_keras' fused kernel the unbiased one."""

_APART = ("value_range",)
"""Settings that tf_keras' layers do not have, and the description takes from the attributes of those names."""

_AS_NAMED = _names("elu exponential gelu leaky_relu linear relu relu6 selu sigmoid softmax softplus softsign tanh")
_ACTIVATIONS: dict[Any, Any] = {name: name for name in _AS_NAMED} | {
    "hard_sigmoid": activations.hard_sigmoid,
    "hard_silu": activations.hard_swish,
    "silu": "swish",
}
"""tf_keras' by Keras 3's names."""
_VARIANCE_SCALING = _names("scale mode distribution seed")
_DISTRIBUTION = _names("mean stddev seed")
_INITIALIZERS: dict[str, frozenset[str]] = {
    "Constant": _names("value"),
    **dict.fromkeys(("GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal"), _names("seed")),
    "LecunUniform": _names("seed"),
    "Ones": frozenset(),
    "Orthogonal": _names("gain seed"),
    "RandomNormal": _DISTRIBUTION,
    "RandomUniform": _names("minval maxval seed"),
    "TruncatedNormal": _DISTRIBUTION,
    "VarianceScaling": _VARIANCE_SCALING,
    "Zeros": frozenset(),
}
_REGULARIZERS = {"L1": _names("l1"), "L2": _names("l2"), "L1L2": _names("l1 l2")}
