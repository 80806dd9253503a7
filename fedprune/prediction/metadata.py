"""What an exported file says of itself: how raw data become its inputs, and what its outputs mean.

It stands in the file, behind the model, as a zip archive of one member: so TFLite files carry associated files (TFLite
Metadata, "Pack metadata and associated files into the model"), runtimes do not look there, and `unzip -p` shows it.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Annotated

import msgspec

from fedprune.data.description import Data
from fedprune.errors import ExportError
from fedprune.model.forms import MAX_ENDS, InputForm
from fedprune.model.losses import Loss
from fedprune.runtime.tflite import one_line
from fedprune.system.disk import why_unreadable
from fedprune.system.paths import path_text

MEMBER = "fedprune.json"
MAX_BYTES = 64 * 2**20
"""Of the description: a vocabulary is in it."""

_FORMAT = 1
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MOST_MEMBERS = 64


class Input(msgspec.Struct, frozen=True):
    """An input of the file: its name in the signature and in data files, its shape, and how many ids it knows."""

    name: str
    array: str
    shape: tuple[int, ...]
    vocabulary: int | None = None

    @property
    def form(self) -> InputForm:
        return InputForm(self.array, self.shape, self.vocabulary)


class Output(msgspec.Struct, frozen=True):
    """An output of the file, `[*places, outputs]`: its name in the signature, and what it was learned with.

    `from_logits`: a crossentropy's outputs are no probabilities yet.
    """

    name: str
    shape: tuple[int, ...]
    loss: Loss
    from_logits: bool = False


class Metadata(msgspec.Struct, frozen=True):
    """The description of an exported file. `data` says how raw data are read, and names the classes. A later version
    may add fields, which are ignored; one that means something else has another `format`."""

    task: str
    data: Data
    inputs: Annotated[tuple[Input, ...], msgspec.Meta(min_length=1, max_length=MAX_ENDS)]
    outputs: Annotated[tuple[Output, ...], msgspec.Meta(min_length=1, max_length=MAX_ENDS)]
    format: int = _FORMAT

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes; empty where the task has none."""
        return getattr(self.data, "labels", ())


def with_metadata(content: bytes, metadata: Metadata) -> bytes:
    """A TFLite file with its description behind the model. Equal descriptions make equal bytes."""
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(MEMBER, _EPOCH), msgspec.json.encode(metadata))
    return buffer.getvalue()


def read_metadata(path: Path) -> Metadata:
    """The description in a file. Raises `ExportError` if it has none that can be read."""
    name = path_text(path)
    if why := why_unreadable(path):
        raise ExportError(f"{name}: {why}; give a .tflite file that can be read")
    try:
        with zipfile.ZipFile(path) as archive:
            text = _member(archive)
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError, NotImplementedError, KeyError) as error:
        raise ExportError(
            f"{name}: it does not say how data become its inputs; export the model again, as `fedprune export` does"
        ) from error
    try:
        found = msgspec.json.decode(text, type=Metadata)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ExportError(f"{name}: {MEMBER}: {one_line(str(error))}; export the model again") from error
    if found.format != _FORMAT:
        raise ExportError(f"{name}: {MEMBER} has format {found.format}, this fedprune reads {_FORMAT}; upgrade it")
    return found


def _member(archive: zipfile.ZipFile) -> bytes:
    """Raises `ValueError` for what no export wrote: nothing is unpacked."""
    info = archive.getinfo(MEMBER)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > MAX_BYTES or len(archive.filelist) > _MOST_MEMBERS:
        raise ValueError
    return archive.read(info)
