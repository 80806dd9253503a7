"""Loading a model from code of the owner's own: a function that returns it, or the model itself, in ``net.py:make`` or
``package.net:make``.

It is run here, on the workstation of who wrote it; nothing of it travels. Importing this module imports TensorFlow.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from export.model_files import load_model_file
from export.plain_models import full_precision, stripped
from fedprune.errors import TaskError
from fedprune.keras.stack import keras

_KERAS_3_MODELS = "keras.src.models"


def load_model(source: str, base: Path) -> Any:
    """The tf_keras model that a task names as ``model.file``: a file's, what a function returns, or what a name is.

    Paths are relative to `base`. Raises `TaskError` for a bad file, for a function that is not there or raises, and for
    one that returns no Keras model.
    """
    place, colon, function = source.rpartition(":")
    if not colon or (base / source).exists():
        return load_model_file(base / source)
    with _importing_from(base, place):
        return _made(_module(place, base, source), function, source)


def load_only_model(place: str, base: Path) -> tuple[list[str], Any]:
    """The names in a Python file that may be its model, and that model, None unless there is one name alone.

    Names are those of models, or where it has none of functions without arguments. The file is run once.
    Raises `TaskError` as `load_model` does.
    """
    with _importing_from(base, place):
        module = _module(place, base, place)
        names = _candidates(module)
        return names, _made(module, names[0], f"{place}:{names[0]}") if len(names) == 1 else None


def _candidates(module: ModuleType) -> list[str]:
    shown = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    models = {id(value): name for name, value in shown.items() if _is_model(value)}
    if models:
        return list(models.values())
    return [
        name
        for name, value in shown.items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and _needs_nothing(value)
    ]


def _made(module: ModuleType, name: str, source: str) -> Any:
    """The model that a module's name stands for, or that its function returns."""
    make = getattr(module, name, None)
    if _is_model(make):
        return _plain(make, source)
    if not callable(make):
        place = source.rpartition(":")[0]
        raise TaskError(f"{source}: {place} has no function {name[:60]!r}; model.file names one as file.py:function")
    keras.backend.reset_uids()
    try:
        model = make()
    except (Exception, SystemExit) as error:
        raise TaskError(
            f"{source}: {_brief(error)}; correct the function, which is called without arguments"
        ) from error
    return _plain(model, source)


def _needs_nothing(function: FunctionType) -> bool:
    """True for a function that can be called without arguments."""
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return all(each.default is not each.empty or each.kind in optional for each in parameters)


def _is_model(value: Any) -> bool:
    """True for models of tf_keras, and of Keras 3, which code may have brought along."""
    return isinstance(value, keras.Model) or _is_keras_3(value)


def _is_keras_3(value: Any) -> bool:
    return any(kind.__module__.startswith(_KERAS_3_MODELS) for kind in type(value).__mro__)


def _module(place: str, base: Path, source: str) -> ModuleType:
    keras.backend.reset_uids()  # so that equal code names its layers equally
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
            raise TaskError(
                f"{source}: the model knows no input shape; begin it with an Input layer, in Sequential or the "
                "functional API"
            )
        try:
            return full_precision(stripped(model))
        except (ValueError, TypeError) as error:  # Keras', on parts that it cannot make again
            raise TaskError(f"{source}: {_brief(error)}; build the model from Keras' own parts") from error
    if _is_keras_3(model):
        if not type(model).__module__.startswith(_KERAS_3_MODELS):
            raise TaskError(
                f"{source}: class {type(model).__name__[:60]!r} is code of its own, which devices do not have; "
                "build the model with Sequential or the functional API"
            )
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "model.keras"
            model.save(str(path))
            return load_model_file(path, source)
    raise TaskError(f"{source}: returned {type(model).__name__[:60]!r}, not a Keras model")


@contextmanager
def _importing_from(base: Path, place: str) -> Iterator[None]:
    """Modules beside the task.toml, and beside a file that it names, can be imported as if Python was started there."""
    beside = [base.absolute(), *([(base / place).absolute().parent] if place.endswith(".py") else [])]
    sys.path[:0] = map(str, beside)
    try:
        yield
    finally:
        for directory in beside:
            sys.path.remove(str(directory))


def _brief(error: BaseException) -> str:
    """The error's first line, and the line of code that it came from."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" ({Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno})" if trace else ""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}{where}"
