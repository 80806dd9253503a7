"""Loading a model from a function of the owner's own: ``net.py:make`` or ``package.net:make``.

It is run here, on the workstation of who wrote it; nothing of it travels. Importing this module imports TensorFlow.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from export.model_files import load_model_file
from export.plain_models import full_precision, stripped
from fedprune.errors import TaskError
from fedprune.keras.stack import keras


def load_model(source: str, base: Path) -> Any:
    """The tf_keras model that a task names as ``model.file``: a file's, or what a function returns.

    Both are relative to `base`. Raises `TaskError` for a bad file, for a function that is not there or raises, and for
    one that returns no Keras model.
    """
    place, colon, function = source.rpartition(":")
    if not colon or (base / source).exists():
        return load_model_file(base / source)
    with _importing_from(base):
        module = _module(place, base, source)
        make = getattr(module, function, None)
        if not callable(make):
            raise TaskError(
                f"{source}: {place} has no function {function[:60]!r}; model.file names one as file.py:function"
            )
        keras.backend.reset_uids()  # so that equal code names its layers equally
        try:
            model = make()
        except (Exception, SystemExit) as error:
            raise TaskError(
                f"{source}: {_brief(error)}; correct the function, which is called without arguments"
            ) from error
    return _plain(model, source)


def _module(place: str, base: Path, source: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        path = base / place
        if not path.is_file():
            raise TaskError(f"{path}: no such file; model.file names a function as file.py:function")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise ImportError("not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses and pickles look for it
        spec.loader.exec_module(module)
        return module
    except TaskError:
        raise
    except (Exception, SystemExit) as error:
        raise TaskError(f"{source}: {place} cannot be imported: {_brief(error)}") from error


def _plain(model: Any, source: str) -> Any:
    if isinstance(model, keras.Model):
        if not model.built:
            raise TaskError(f"{source}: the model knows no input shape; begin it with an Input layer")
        try:
            return full_precision(stripped(model))
        except (ValueError, TypeError) as error:  # Keras', on parts that it cannot make again
            raise TaskError(f"{source}: {_brief(error)}; build the model from Keras' own parts") from error
    if type(model).__module__.startswith("keras.src.models"):  # Keras 3, which the function brought along
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "model.keras"
            model.save(str(path))
            return load_model_file(path)
    raise TaskError(f"{source}: returned {type(model).__name__[:60]!r}, not a Keras model")


@contextmanager
def _importing_from(base: Path) -> Iterator[None]:
    """Modules beside the task.toml can be imported, as if Python had been started there."""
    sys.path.insert(0, str(base.absolute()))
    try:
        yield
    finally:
        sys.path.remove(str(base.absolute()))


def _brief(error: BaseException) -> str:
    """The error's first line, and the line of code that it came from."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" ({Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno})" if trace else ""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}{where}"
