"""Loading a model from a file that somebody saved. Nothing in it is run. Importing this module imports TensorFlow.

Of the file only the configuration and the weights are used: the model is built from the one, once that was checked,
and given the other.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]

from export.config_check import check_model_config
from export.keras3.model import make_model
from export.keras3.weights import load_weights
from export.plain_models import in_float32, parameters, stripped
from fedprune.errors import TaskError
from fedprune.keras.stack import keras, tf, tfmot
from fedprune.system.disk import why_unreadable
from fedprune.task.checks import MAX_PARAMETERS

MAX_FILE_BYTES = 2**30
_MAX_CONFIG_BYTES = 2**22
_SAVE = "save the whole model as a .keras file"
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, KeyError, TypeError)


def load_model_file(path: Path, origin: str = "") -> Any:
    """The Keras model in a ``.keras`` or ``.h5`` file, with the file's weights, as a tf_keras model.

    A ``.keras`` file may be of Keras 3. Pruning wrappers are taken off, and mixed precision is read as float32.
    Messages call the file `origin`, or else by its path. Raises `TaskError` if the file cannot be read, is damaged,
    holds custom code (naming the layer), or is too large.
    """
    origin = origin or str(path)
    readers = {".keras": _config_of_archive, ".h5": _config_of_hdf5}
    if path.suffix not in readers:
        raise TaskError(f"{origin}: not a .keras or .h5 file; {_SAVE}")
    if why := why_unreadable(path):
        raise TaskError(f"{origin}: {why}; model.file is a file, relative to the task.toml")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise TaskError(f"{origin}: larger than {MAX_FILE_BYTES} bytes, too much for small devices")
        version, config = readers[path.suffix](path)
    except _DAMAGED as error:
        raise TaskError(f"{origin}: not a readable model ({_brief(error)}); {_SAVE}") from error
    if version.startswith("2."):
        check_model_config(config, origin)
        config = in_float32(config)
        return _build(origin, lambda: _of_keras_2(config), lambda model: model.load_weights(str(path)))
    if version.startswith("3.") and path.suffix == ".keras":
        return _build(origin, lambda: make_model(json.loads(config)), lambda model: _load_keras_3(model, config, path))
    raise TaskError(f"{origin}: written by Keras {version[:20]} in this format; save it with Keras 3 as a .keras file")


def _of_keras_2(config: str) -> Any:
    with tfmot.sparsity.keras.prune_scope():
        return keras.models.model_from_json(config)


def _load_keras_3(model: Any, config: str, path: Path) -> None:
    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as weights:
        load_weights(model, json.loads(config), weights)


def _config_of_archive(path: Path) -> tuple[str, str]:
    """Keras' version and the model's configuration."""
    with zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > MAX_FILE_BYTES:
            raise ValueError(f"it unpacks to more than {MAX_FILE_BYTES} bytes")
        with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as weights:
            _check_hdf5(weights)
        version = json.loads(_read_text(archive, "metadata.json"))["keras_version"]
        return str(version), _read_text(archive, "config.json")


def _read_text(archive: zipfile.ZipFile, name: str) -> str:
    with archive.open(name) as stream:
        return stream.read(_MAX_CONFIG_BYTES).decode()


def _config_of_hdf5(path: Path) -> tuple[str, str]:
    """Keras' version and the model's configuration."""
    with h5py.File(path, "r") as file:
        _check_hdf5(file)
        version, config = (file.attrs[name] for name in ("keras_version", "model_config"))
    return _text(version), _text(config)


def _text(attribute: Any) -> str:
    return attribute.decode() if isinstance(attribute, bytes) else str(attribute)


def _check_hdf5(file: h5py.File) -> None:
    """Raise ValueError for what would be read from elsewhere, or unpack to more than a file may have."""
    elsewhere: list[str] = []
    sizes: list[int] = []

    # What these raise, h5py would turn into an error of its own.
    def see_link(name: str, link: Any) -> None:
        if not isinstance(link, h5py.HardLink):
            elsewhere.append(name)

    def see_item(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            sizes.append(item.nbytes)
            if item.external or item.is_virtual:
                elsewhere.append(name)

    file.visititems_links(see_link)
    file.visititems(see_item)
    if elsewhere:
        raise ValueError(f"{elsewhere[0]} is kept elsewhere")
    if sum(sizes) > MAX_FILE_BYTES:
        raise ValueError(f"it unpacks to more than {MAX_FILE_BYTES} bytes")


def _build(origin: str, make: Callable[[], Any], load: Callable[[Any], None]) -> Any:
    try:
        with tf.Graph().as_default():  # where variables have shapes, but no memory yet
            count = parameters(make())
        if count <= MAX_PARAMETERS:
            model = make()
            load(model)
            return stripped(model)
    except TaskError as error:
        raise TaskError(f"{origin}: {error}") from error
    except Exception as error:  # whatever Keras raises on a configuration or weights that make no sense
        raise TaskError(f"{origin}: Keras cannot build it ({_brief(error)}); {_SAVE}") from error
    raise TaskError(f"{origin}: {count} parameters are more than a task may have ({MAX_PARAMETERS})")


def _brief(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:120] or type(error).__name__
