"""Examples that a function of the device's owner returns: ``mine.py:load`` or ``package.module:load``.

It is the owner's own code, named on the owner's own device; a task cannot name one.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fedprune.data.dataset import Dataset
from fedprune.data.npz import load_npz
from fedprune.data.skipped import brief
from fedprune.errors import DataError
from fedprune.system.paths import path_text


def call_function(path: Path) -> Dataset:
    """What `load()` returns, called without arguments: arrays x and y, as `load_npz` takes them.

    Raises `DataError` where there is no such function, it raises, or returns something else.
    """
    origin = path_text(path)
    place, _, name = path.name.rpartition(":")
    with _importing_from(path.parent), _told(origin):
        load: Callable[[], Any] | None = getattr(_module(path.with_name(place), place), name, None)
        if not callable(load):
            raise DataError(f"{origin}: {place} has no function {name!r}; name one that returns x and y")
        returned = load()
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise DataError(f"{origin}: it returned {type(returned).__name__!r}; return two arrays, x and y")
        packed = io.BytesIO()
        np.savez(packed, x=np.asarray(returned[0]), y=np.asarray(returned[1]))
    return load_npz(packed, origin)


def _module(path: Path, place: str) -> ModuleType:
    if path.suffix != ".py":
        return importlib.import_module(place)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise DataError(f"{path_text(path)}: there is no such file; name a function as file.py:function")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickles look for it
    spec.loader.exec_module(module)
    return module


@contextmanager
def _told(origin: str) -> Iterator[None]:
    """Whatever the owner's code raises becomes a `DataError`."""
    try:
        yield
    except DataError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(f"{origin}: {type(error).__name__}: {brief(error)}; correct the function") from error


@contextmanager
def _importing_from(directory: Path) -> Iterator[None]:
    """Modules beside the function's can be imported, as if Python had been started there."""
    place = str(directory.absolute())  # the function may change the working directory
    sys.path.insert(0, place)
    try:
        yield
    finally:
        with suppress(ValueError):  # the function may have removed it
            sys.path.remove(place)
