"""Where data come from: IDX files, Fashion-MNIST's three places, digits where none of them has it."""

from __future__ import annotations

import functools
import gzip
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.data.digits import digits
from fedprune.data.fashion_mnist import fashion_mnist
from fedprune.data.idx import parse_idx
from fedprune.data.source import fashion_mnist_or_digits, open_source
from fedprune.errors import DataError

_PACKAGE = Path("/usr/share/datasets/fashion-mnist")
_NOBODY = "http://127.0.0.1:1/"

needs_package = pytest.mark.skipif(not _PACKAGE.is_dir(), reason="the Debian package dataset-fashion-mnist is missing")


@pytest.fixture(autouse=True)
def _without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on the loopback, and the directory that it serves."""
    root = tmp_path / "served"
    root.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_QuietHandler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", root
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_idx_file_is_read() -> None:
    blob = bytes.fromhex("00000802 00000002 00000003 0102030405ff")
    np.testing.assert_array_equal(parse_idx(blob, 2), [[1, 2, 3], [4, 5, 255]])


@pytest.mark.parametrize(
    ("blob", "complaint"),
    [
        ("", "not an IDX file of bytes in 2 dimensions"),
        ("00000803 00000002 00000003 00000001 010203040506", "starts 00000803, not 00000802"),
        ("00000d02 00000002 00000003 010203040506", "starts 00000d02"),
        ("00000802 00000002 0000", "cut off in its header"),
        ("00000802 00000002 00000003 0102030405", "17 bytes, its header .* says 18"),
        ("00000802 00000002 00000003 01020304050607", "19 bytes, its header .* says 18"),
        ("00000802 ffffffff ffffffff 01", "13 bytes, its header"),
    ],
)
def test_any_other_file_is_refused(blob: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        parse_idx(bytes.fromhex(blob), 2)


@given(st.binary(max_size=40), st.integers(1, 4), st.booleans())
def test_no_bytes_raise_anything_but_data_errors(blob: bytes, dimensions: int, start_well: bool) -> None:
    blob = bytes([0, 0, 8, dimensions]) + blob if start_well else blob
    try:
        array = parse_idx(blob, dimensions)
    except DataError:
        return
    assert array.size == len(blob) - 4 - 4 * dimensions


@needs_package
def test_fashion_mnist_comes_from_the_debian_package(tmp_path: Path) -> None:
    source = fashion_mnist(cache=tmp_path, url=_NOBODY)
    assert "Debian package" in source.name
    assert source.note == ""
    assert source.test is not None
    assert source.train.x.shape == (60_000, 28, 28, 1)
    assert source.test.x.shape == (10_000, 28, 28, 1)
    assert source.train.x.dtype == np.float32
    assert (source.train.x.min(), source.train.x.max()) == (0.0, 1.0)
    assert np.bincount(source.train.y).tolist() == [6000] * 10
    assert np.bincount(source.test.y).tolist() == [1000] * 10


@needs_package
def test_fashion_mnist_is_downloaded_once_and_then_found_in_the_cache(tmp_path: Path, served: tuple[str, Path]) -> None:
    url, root = served
    shutil.copytree(_PACKAGE, root, dirs_exist_ok=True)
    cache = tmp_path / "cache"
    assert "downloaded from" in fashion_mnist(package=tmp_path, cache=cache, url=url).name
    assert "download cache" in fashion_mnist(package=tmp_path, cache=cache, url=_NOBODY).name


@needs_package
def test_a_damaged_download_is_neither_used_nor_kept(tmp_path: Path, served: tuple[str, Path]) -> None:
    url, root = served
    shutil.copytree(_PACKAGE, root, dirs_exist_ok=True)
    labels = gzip.decompress((_PACKAGE / "t10k-labels-idx1-ubyte.gz").read_bytes())
    (root / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels[:-1] + b"\x00"))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz is damaged"):
        fashion_mnist(package=tmp_path, cache=tmp_path / "cache", url=url)
    assert not (tmp_path / "cache").exists()


def test_a_truncated_file_in_the_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + bytes(99))[:40])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is damaged.*install the Debian package"):
        fashion_mnist(package=tmp_path / "none", cache=tmp_path, url=_NOBODY)


def test_digits_stand_in_and_the_note_says_why(tmp_path: Path) -> None:
    source = fashion_mnist_or_digits(lambda: fashion_mnist(package=tmp_path, cache=tmp_path, url=_NOBODY))
    assert source.name.startswith("digits")
    assert "digits stand in for Fashion-MNIST" in source.note
    assert "dataset-fashion-mnist" in source.note
    assert "Connection refused" in source.note


def test_digits_have_the_format_of_mnist() -> None:
    source = digits()
    assert source.test is not None
    assert (len(source.train), len(source.test)) == (1437, 360)
    assert source.train.x.shape[1:] == (28, 28, 1)
    assert source.train.x.dtype == np.float32
    assert (source.train.x.min(), source.train.x.max()) == (0.0, 1.0)
    assert set(np.unique(source.test.y)) == set(range(10))


def test_enlarged_digits_are_the_scans() -> None:
    """Every third pixel inside the border is a pixel of the scan; the border is empty."""
    from sklearn.datasets import load_digits

    x = digits().train.x[..., 0]
    np.testing.assert_array_equal(x[:, 3:26:3, 3:26:3] * 16, load_digits().images[: len(x)])
    assert x.sum() == 9 * x[:, 3:26:3, 3:26:3].sum()


def test_any_other_name_is_a_path(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=np.zeros((3, 2)), y=np.arange(3))
    source = open_source(str(tmp_path / "mine.npz"))
    assert (len(source.train), source.test) == (3, None)
    with pytest.raises(DataError, match="fashion_mnist: there is no such file"):
        open_source("fashion_mnist")
