"""Refusing a model configuration that could run code: it is foreign data, and Keras would trust it.

Keras imports whatever module a configuration names, unmarshals the byte code of Lambda layers, and calls any
TensorFlow function for an operator layer. So a model may be made of what is listed here: Keras' own classes that
neither call arbitrary functions nor read files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from export.describing.operators import OPERATORS
from fedprune.errors import TaskError

_MODELS = frozenset({"Sequential", "Functional", "Model"})
_MODEL_MODULES = frozenset({"keras", "tf_keras.src.engine.functional"})
_LAYERS = """
    Activation ActivityRegularization Add AdditiveAttention AlphaDropout Attention Average AveragePooling1D
    AveragePooling2D AveragePooling3D BatchNormalization Bidirectional CategoryEncoding CenterCrop Concatenate Conv1D
    Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Cropping1D
    Cropping2D Cropping3D Dense DepthwiseConv1D DepthwiseConv2D Discretization Dot Dropout ELU EinsumDense Embedding
    Flatten GRU GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
    GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization Identity
    InputLayer LSTM LSTMCell LayerNormalization LeakyReLU LocallyConnected1D LocallyConnected2D Masking MaxPooling1D
    MaxPooling2D MaxPooling3D Maximum Minimum MultiHeadAttention Multiply Normalization PReLU Permute RNN
    RandomBrightness RandomContrast RandomCrop RandomFlip RandomHeight RandomRotation RandomTranslation RandomWidth
    RandomZoom ReLU RepeatVector Rescaling Reshape Resizing SeparableConv1D SeparableConv2D SimpleRNN SimpleRNNCell
    Softmax SpatialDropout1D SpatialDropout2D SpatialDropout3D SpectralNormalization StackedRNNCells Subtract
    ThresholdedReLU TimeDistributed UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D
    ZeroPadding2D ZeroPadding3D
"""
_INITIALIZERS = """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones Orthogonal
    RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros
"""
_PARTS = {
    "keras.layers": frozenset(_LAYERS.split()),
    "keras.initializers": frozenset(_INITIALIZERS.split()),
    "keras.regularizers": frozenset({"L1", "L1L2", "L2", "OrthogonalRegularizer"}),
    "keras.constraints": frozenset({"MaxNorm", "MinMaxNorm", "NonNeg", "RadialConstraint", "UnitNorm"}),
}
_PRUNING = "tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper"
_PARTS |= {_PRUNING: frozenset({"PruneLowMagnitude"}), "keras.mixed_precision": frozenset({"Policy"})}
_WRAPPERS = frozenset({"ConstantSparsity", "PolynomialDecay"})
"""The schedules of pruning wrappers, which go by their names alone."""
_OPERATOR_LAYERS = ("SlicingOpLambda", "TFOpLambda")
_OPERATOR_MODULES = ("keras.layers", "tf_keras.src.layers.core.tf_op_layer")
_QUANTISED = "is made by TF-MOT's quantize_model; save the model from before, the export quantises it"
_KNOWN = {
    "ClusterWeights": "is wrapped by TF-MOT; save tfmot.clustering.keras.strip_clustering(model)",
    "QuantizeLayer": _QUANTISED,
    "QuantizeWrapper": _QUANTISED,
    "QuantizeWrapperV2": _QUANTISED,
}
"""Classes that are refused as others are, with what to do about them."""
_ANYWHERE = _MODELS.union(*_PARTS.values(), _WRAPPERS)


def check_model_config(model_json: str, origin: str = "model") -> None:
    """Raise `TaskError`, naming the layer, if `model_json` could run code of its author's when Keras builds it.

    `origin` is what to call the configuration in messages.
    """
    try:
        model = json.loads(model_json)
        if not isinstance(model, dict) or model.get("class_name") not in _MODELS:
            raise TaskError(f"{origin}: not a Sequential or Functional model; build it from Keras' own layers")
        for described, layer in _objects(model, "model"):
            _check_class(described, layer, origin)
    except (ValueError, TypeError, RecursionError) as error:
        raise TaskError(f"{origin}: not a configuration of a model ({str(error)[:80]}); save it again") from error


def _objects(config: Any, layer: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Every description of an object inside, however deep, and the name of the layer that it is or belongs to."""
    if isinstance(config, dict):
        if "class_name" in config:
            settings = config.get("config")
            if isinstance(settings, dict) and config["class_name"] != "Policy":  # its name is a precision's
                layer = str(settings.get("name", layer))
            yield config, layer
        for value in config.values():
            yield from _objects(value, layer)
    elif isinstance(config, list):
        for value in config:
            yield from _objects(value, layer)


def _check_class(described: dict[str, Any], layer: str, origin: str) -> None:
    name, registered = described["class_name"], described.get("registered_name")
    if known := _KNOWN.get(name) if isinstance(name, str) else None:
        raise TaskError(f"{origin}: layer {layer[:60]!r} {known}")
    if name in _OPERATOR_LAYERS:
        _check_operator(described, layer, origin)
        return
    if registered not in (None, name) or not _is_keras_own(name, described):
        raise TaskError(
            f"{origin}: layer {layer[:60]!r} is, or uses, custom code ({str(name)[:60]!r}), which is never taken from "
            "a file; build the model from Keras' own layers"
        )


def _check_operator(described: dict[str, Any], layer: str, origin: str) -> None:
    settings = described.get("config")
    function = settings.get("function") if isinstance(settings, dict) else None
    if described.get("module", "keras.layers") not in _OPERATOR_MODULES or function not in OPERATORS:
        raise TaskError(
            f"{origin}: layer {layer[:60]!r} is the operator tf.{str(function)[:60]}, which is not supported; use "
            "Keras' own layers"
        )


def _is_keras_own(name: Any, described: dict[str, Any]) -> bool:
    """Keras leaves the module out at the top, in nested Sequential models and in HDF5 files: it then looks the class
    up among its own. A module that is null, on the other hand, marks a class that somebody registered."""
    if "module" not in described:
        return name in _ANYWHERE
    module = described["module"]
    return (module in _MODEL_MODULES and name in _MODELS) or name in _PARTS.get(module, ())
