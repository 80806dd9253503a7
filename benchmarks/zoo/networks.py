"""The networks of the zoo, as people write them in tf_keras. Importing this module imports TensorFlow.

MLPerf Tiny's four are those of its reference code (Banbury et al. 2021, "MLPerf Tiny benchmark", arXiv 2106.07597).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.zoo.sequences import SEQUENCES, sequence_autoencoder
from fedprune.keras.stack import keras
from fedprune.model.losses import Loss
from fedprune.task.outputs import OutputLoss

L = keras.layers

_L2 = 1e-4


@dataclass(frozen=True)
class Entry:
    """A network of the zoo. `build` takes whether its dropout drops anything: two trainers drop different numbers."""

    build: Callable[[bool], Any]
    loss: Loss = Loss.SPARSE_CATEGORICAL_CROSSENTROPY
    losses: Mapping[str, OutputLoss] = field(default_factory=dict)
    """Of each output, where there are several."""


def _resnet_8(_: bool) -> Any:
    x = L.Input((32, 32, 3))
    y = L.ReLU()(L.BatchNormalization()(_penalised(16, 3)(x)))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        z = L.ReLU()(L.BatchNormalization()(_penalised(filters, 3, strides)(y)))
        z = L.BatchNormalization()(_penalised(filters, 3)(z))
        y = y if strides == 1 else _penalised(filters, 1, strides)(y)
        y = L.ReLU()(L.Add()([y, z]))
    return keras.Model(x, L.Dense(10, "softmax")(L.Flatten()(L.AveragePooling2D(8)(y))))


def _penalised(filters: int, size: int, strides: int = 1) -> Any:
    return L.Conv2D(filters, size, strides=strides, padding="same", kernel_regularizer=keras.regularizers.L2(_L2))


def _mobilenet_v1(_: bool) -> Any:
    """Of width 1/4, for images of 96 x 96: visual wake words."""
    x = L.Input((96, 96, 3))
    y = _relu(L.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x))
    blocks = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1))
    for filters, strides in blocks:
        y = _relu(L.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(y))
        y = _relu(L.Conv2D(filters, 1, use_bias=False)(y))
    return keras.Model(x, L.Dense(2, "softmax")(L.Flatten()(L.AveragePooling2D(3)(y))))


def _ds_cnn(drops: bool) -> Any:
    """For 49 x 10 spectral coefficients: keywords."""
    x = L.Input((49, 10, 1))
    y = L.Dropout(0.2 if drops else 0.0)(_relu(L.Conv2D(64, (10, 4), strides=2, padding="same")(x)))
    for _ in range(4):
        y = _relu(L.DepthwiseConv2D(3, padding="same")(y))
        y = _relu(L.Conv2D(64, 1)(y))
    y = L.AveragePooling2D((25, 5))(L.Dropout(0.4 if drops else 0.0)(y))
    return keras.Model(x, L.Dense(12, "softmax")(L.Flatten()(y)))


def _autoencoder(_: bool) -> Any:
    """For 5 frames of 128 spectral coefficients: anomalies of machines."""
    x = y = L.Input((640,))
    for units in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        y = _relu(L.Dense(units)(y))
    return keras.Model(x, L.Dense(640)(y))


def _mobilenet_v2(_: bool) -> Any:
    return keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, classes=10)


def _frozen_mobilenet_v2(drops: bool) -> Any:
    base = keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, include_top=False)
    base.trainable = False
    x = L.Input((96, 96, 3))
    y = L.Dropout(0.2 if drops else 0.0)(L.GlobalAveragePooling2D()(base(x)))
    return keras.Model(x, L.Dense(10, "softmax")(y))


def _mobilenet_v3(drops: bool) -> Any:
    """MobileNetV3-small's kinds of blocks, fewer and narrower: some squeeze and excite, the first have ReLU and the
    others hard swish (Howard et al. 2019, "Searching for MobileNetV3", arXiv 1905.02244)."""
    x = L.Input((64, 64, 3))
    y = _hard_swish(L.BatchNormalization()(L.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)))
    blocks = (
        (8, 8, 3, 2, True, keras.activations.relu),
        (36, 12, 3, 2, False, keras.activations.relu),
        (44, 12, 3, 1, False, keras.activations.relu),
        (48, 16, 5, 2, True, _hard_swish),
        (96, 16, 5, 1, True, _hard_swish),
    )
    for wide, filters, size, strides, squeezes, function in blocks:
        z = function(L.BatchNormalization()(L.Conv2D(wide, 1, use_bias=False)(y)))
        z = L.DepthwiseConv2D(size, strides=strides, padding="same", use_bias=False)(z)
        z = function(L.BatchNormalization()(z))
        z = _squeezed(z) if squeezes else z
        z = L.BatchNormalization()(L.Conv2D(filters, 1, use_bias=False)(z))
        y = L.Add()([y, z]) if y.shape == z.shape else z
    y = _hard_swish(L.BatchNormalization()(L.Conv2D(96, 1, use_bias=False)(y)))
    y = L.Dropout(0.2 if drops else 0.0)(_hard_swish(L.Dense(128)(L.GlobalAveragePooling2D()(y))))
    return keras.Model(x, L.Dense(10, "softmax")(y))


def _squeezed(x: Any) -> Any:
    """Channels weighed by what a small network makes of their means."""
    y = L.GlobalAveragePooling2D(keepdims=True)(x)
    y = L.Conv2D(max(x.shape[-1] // 4, 8), 1, activation="relu")(y)
    return L.Multiply()([x, _hard_sigmoid(L.Conv2D(x.shape[-1], 1)(y))])


def _hard_swish(x: Any) -> Any:
    return L.Multiply()([x, _hard_sigmoid(x)])


def _hard_sigmoid(x: Any) -> Any:
    """As Keras' own MobileNetV3 writes it: of slope 1/6, where tf_keras' activation of that name has 0.2."""
    return L.ReLU(6.0)(x + 3.0) * (1.0 / 6.0)


def _squeezenet(drops: bool) -> Any:
    """Fire modules (Iandola et al. 2016, "SqueezeNet", arXiv 1602.07360), five of them."""
    x = L.Input((64, 64, 3))
    y = L.MaxPooling2D(3, strides=2)(L.Conv2D(32, 3, strides=2, activation="relu")(x))
    for number, squeezed in enumerate((8, 8, 16, 16, 24)):
        y = L.Conv2D(squeezed, 1, activation="relu")(y)
        wide = [L.Conv2D(4 * squeezed, size, padding="same", activation="relu")(y) for size in (1, 3)]
        y = L.Concatenate()(wide)
        if number in (1, 3):
            y = L.MaxPooling2D(3, strides=2)(y)
    y = L.Conv2D(10, 1, activation="relu")(L.Dropout(0.5 if drops else 0.0)(y))
    return keras.Model(x, L.Softmax()(L.GlobalAveragePooling2D()(y)))


def _u_net(_: bool) -> Any:
    """A class for each pixel, over two levels (Ronneberger et al. 2015, "U-Net: convolutional networks for biomedical
    image segmentation", arXiv 1505.04597)."""
    x = y = L.Input((32, 32, 3))
    kept = []
    for filters in (8, 16):
        kept.append(_relu(L.Conv2D(filters, 3, padding="same")(y)))
        y = L.MaxPooling2D()(kept[-1])
    y = _relu(L.Conv2D(32, 3, padding="same")(y))
    for filters, fine in ((16, kept[1]), (8, kept[0])):
        y = L.Concatenate()([fine, L.Conv2DTranspose(filters, 2, strides=2)(y)])
        y = _relu(L.Conv2D(filters, 3, padding="same")(y))
    return keras.Model(x, L.Conv2D(3, 1)(y))


def _windows(order: Callable[[Any], Any]) -> Callable[[bool], Any]:
    """A 1-D CNN over windows of 128 samples of 6 sensors."""

    def build(_: bool) -> Any:
        x = y = L.Input((128, 6))
        for filters in (32, 64, 64):
            y = L.MaxPooling1D(2)(order(L.Conv1D(filters, 5, padding="same")(y)))
        return keras.Model(x, L.Dense(6, "softmax")(L.GlobalAveragePooling1D()(y)))

    return build


def _mlp(_: bool) -> Any:
    return keras.Sequential([L.Input((64,)), L.Dense(64, "relu"), L.Dense(32, "tanh"), L.Dense(10, "softmax")])


def _residual(join: Callable[[Any, Any], Any]) -> Callable[[bool], Any]:
    def build(_: bool) -> Any:
        x = L.Input((24, 24, 3))
        y = _relu(L.Conv2D(16, 3, padding="same", use_bias=False)(x))
        for filters in (16, 32):
            shortcut = L.Conv2D(filters, 1, strides=2, use_bias=False)(y)
            z = _relu(L.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(y))
            z = L.BatchNormalization()(L.Conv2D(filters, 3, padding="same", use_bias=False)(z))
            y = L.ReLU()(join(shortcut, z))
        return keras.Model(x, L.Dense(10)(L.GlobalAveragePooling2D()(y)))

    return build


def _nested(_: bool) -> Any:
    """A feature extractor inside a classifier; pixels from 0 to 255 are rescaled first."""
    inner = L.Input((32, 32, 3))
    y = _relu(L.Conv2D(16, 3, strides=2, padding="same")(inner))
    y = _relu(L.SeparableConv2D(32, 3, strides=2, padding="same")(y))
    features = keras.Model(inner, y)
    x = L.Input((32, 32, 3))
    y = L.GlobalMaxPooling2D()(features(L.Rescaling(1 / 127.5, offset=-1.0)(x)))
    return keras.Model(x, keras.Sequential([L.Dense(32, "relu"), L.Dense(10, "softmax")])(y))


def _two_inputs(_: bool) -> Any:
    """A picture, and the number of a category that it belongs to."""
    image, category = L.Input((24, 24, 3), name="image"), L.Input((1,), dtype="int32", name="category")
    y = image
    for filters in (16, 32):
        y = _relu(L.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(y))
    told = L.Flatten()(L.Embedding(12, 8)(category))
    y = L.Dense(32, "relu")(L.Concatenate()([L.GlobalAveragePooling2D()(y), told]))
    return keras.Model([image, category], L.Dense(10)(y))


def _two_outputs(_: bool) -> Any:
    """An object's class, and its box, of one picture."""
    x = y = L.Input((32, 32, 3))
    for filters in (16, 32, 32):
        y = _relu(L.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(y))
    y = L.GlobalAveragePooling2D()(y)
    box = L.Dense(4, "sigmoid", name="box")(L.Dense(32, "relu")(y))
    return keras.Model(x, [L.Dense(10, "softmax", name="kind")(y), box])


_TWO_OUTPUTS = {
    "kind": OutputLoss(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, label_smoothing=0.1),
    "box": OutputLoss(Loss.MEAN_SQUARED_ERROR, weight=5.0),
}


def _augmented(_: bool) -> Any:
    """Photos from 0 to 255, which are mirrored, turned, moved, zoomed and lit otherwise in training."""
    front = keras.Sequential(
        [
            L.Input((32, 32, 3)),
            L.RandomFlip("horizontal"),
            L.RandomRotation(0.05),
            L.RandomTranslation(0.1, 0.1, fill_mode="constant"),
            L.RandomZoom(0.1),
            L.RandomContrast(0.2),
        ]
    )
    x = L.Input((32, 32, 3))
    y = L.Rescaling(1 / 127.5, offset=-1.0)(front(x))
    for filters in (16, 32):
        y = _relu(L.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(y))
    return keras.Model(x, L.Dense(10, "softmax")(L.GlobalAveragePooling2D()(y)))


def _cnn_108k(_: bool) -> Any:
    from export.models import cnn_108k

    return cnn_108k((28, 28, 1), 10)


def _relu(x: Any) -> Any:
    return L.ReLU()(L.BatchNormalization()(x))


def _relu_first(x: Any) -> Any:
    return L.BatchNormalization()(L.ReLU()(x))


NETWORKS: dict[str, Entry] = {
    "mlp": Entry(_mlp),
    "cnn-108k": Entry(_cnn_108k),
    "resnet-8": Entry(_resnet_8),
    "mobilenet-v1-0.25": Entry(_mobilenet_v1),
    "ds-cnn": Entry(_ds_cnn),
    "autoencoder": Entry(_autoencoder, Loss.MEAN_SQUARED_ERROR),
    "mobilenet-v2-0.35": Entry(_mobilenet_v2),
    "mobilenet-v2-0.35-frozen": Entry(_frozen_mobilenet_v2),
    "squeezenet": Entry(_squeezenet),
    "windows-bn-relu": Entry(_windows(_relu)),
    "windows-relu-bn": Entry(_windows(_relu_first)),
    "residual-add": Entry(_residual(lambda a, b: L.Add()([a, b]))),
    "residual-plus": Entry(_residual(lambda a, b: a + b)),
    "nested": Entry(_nested),
    "augmented": Entry(_augmented),
    "mobilenet-v3-small": Entry(_mobilenet_v3),
    "u-net": Entry(_u_net),
    "sequence-autoencoder": Entry(sequence_autoencoder, Loss.MEAN_SQUARED_ERROR),
    "two-inputs": Entry(_two_inputs),
    "two-outputs": Entry(_two_outputs, losses=_TWO_OUTPUTS),
    **{name: Entry(make) for name, make in SEQUENCES.items()},
}
"""The zoo, by name."""

SMALL = ("mlp", "windows-relu-bn", "residual-plus", "nested", "embedding-gru", "transformer-text")
"""Those that are quick to build, and between them have most of what the others have."""
