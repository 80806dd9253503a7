"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): 60,000 training and 10,000 test images of 28x28 pixels in 10 classes."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.request
import zlib
from pathlib import Path

import numpy as np

from fedprune.data.dataset import Dataset, Source
from fedprune.data.idx import parse_idx
from fedprune.errors import DataError, StorageError
from fedprune.system.disk import Directory

_PACKAGE = Path("/usr/share/datasets/fashion-mnist")
_DOWNLOAD = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
_MAX_BYTES = 2**26  # of one file, packed or unpacked
_TIMEOUT_S = 10.0
_DEADLINE_S = 300.0

# SHA-256 of the files when unpacked: Debian's and Keras's archives differ, what is in them does not.
_DIGESTS = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def fashion_mnist(*, package: Path = _PACKAGE, cache: Path | None = None, url: str = _DOWNLOAD) -> Source:
    """Fashion-MNIST from the Debian package, else from Keras's download cache, else downloaded into that cache.

    x is float32 `[examples, 28, 28, 1]` in 0 to 1. Raises `DataError` naming what was tried where all three fail.
    """
    cache = cache or Path(os.path.expanduser(os.environ.get("KERAS_HOME", "~/.keras")), "datasets", "fashion-mnist")
    failures = []
    for directory, how in ((package, "Debian package dataset-fashion-mnist"), (cache, "Keras's download cache")):
        try:
            return _read(directory, how)
        except DataError as error:
            failures.append(f"{how}: {error}")
    try:
        _download(url, cache)
        return _read(cache, f"downloaded from {url}")
    except (DataError, StorageError) as error:
        failures.append(f"download: {error}")
    raise DataError(
        f"Fashion-MNIST cannot be had ({'; '.join(failures)}): "
        "install the Debian package dataset-fashion-mnist, or let this machine reach the download"
    )


def _read(directory: Path, how: str) -> Source:
    name = f"Fashion-MNIST ({how})"
    return Source(name, train=_split(directory, "train", name), test=_split(directory, "t10k", name))


def _split(directory: Path, part: str, name: str) -> Dataset:
    images = parse_idx(_unpacked(directory, f"{part}-images-idx3-ubyte.gz"), 3)
    labels = parse_idx(_unpacked(directory, f"{part}-labels-idx1-ubyte.gz"), 1)
    return Dataset(np.divide(images[..., None], 255, dtype=np.float32), labels.astype(np.int64), name)


def _unpacked(directory: Path, name: str) -> bytes:
    path = directory / name
    try:
        return _verified(name, path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def _verified(name: str, packed: bytes) -> bytes:
    """Unpack one of the four files. Raises `DataError` unless it is exactly the published one."""
    inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        unpacked = inflate.decompress(packed, _MAX_BYTES)
    except zlib.error as error:
        raise DataError(f"{name} is damaged ({error}); delete it") from error
    if hashlib.sha256(unpacked).hexdigest() != _DIGESTS[name]:
        raise DataError(f"{name} is damaged (its digest is not the published one); delete it")
    return unpacked


def _download(url: str, cache: Path) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    fetched = {name: _fetch(url + name, deadline) for name in _DIGESTS}
    for name, packed in fetched.items():
        _verified(name, packed)
    directory = Directory(cache)
    for name, packed in fetched.items():
        directory.write(name, packed)


def _fetch(url: str, deadline: float) -> bytes:
    """The body of a reply over HTTP. Raises `DataError` where it fails, is too long, or takes past the deadline."""
    body = bytearray()
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as reply:  # noqa: S310 - addresses of ours
            while chunk := reply.read1(2**16):
                body += chunk
                if len(body) > _MAX_BYTES or time.monotonic() > deadline:
                    raise DataError(f"{url}: larger or slower than it should be")
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{url}: {getattr(error, 'reason', None) or error}") from error
    return bytes(body)
