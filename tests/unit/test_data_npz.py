"""The `.npz` loader: what it accepts, and one clear line for everything else."""

from __future__ import annotations

import io
import resource
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedprune.data import Dataset, count_examples, load_npz, save_npz
from fedprune.errors import DataError, StorageError

_X = np.arange(24, dtype=np.float32).reshape(6, 4)
_Y = np.array([0, 1, 2, 0, 1, 2])


def _saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def _refusal(path: Path) -> str:
    """What the loader says against a file; nothing if it loads. Any other exception passes through."""
    try:
        loaded = load_npz(path)
    except DataError as refusal:
        return str(refusal)
    assert len(loaded.x) == len(loaded.y) >= 1
    assert np.isfinite(loaded.x).all()
    return ""


def test_float_examples_are_kept_and_integer_labels_widened(tmp_path: Path) -> None:
    loaded = load_npz(_saved(tmp_path / "d.npz", x=_X.astype(np.float64), y=_Y.astype(np.uint8)))
    assert loaded.x.dtype == np.float32
    assert loaded.y.dtype == np.int64
    np.testing.assert_array_equal(loaded.x, _X)
    np.testing.assert_array_equal(loaded.y, _Y)
    assert (len(loaded), loaded.x.shape) == (6, (6, 4))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("spoilt", [(0, 0), (7, 900), (59, 999)])
def test_large_arrays_are_read_whole_and_searched_whole(tmp_path: Path, order: Any, spoilt: tuple[int, int]) -> None:
    x = np.asarray(np.arange(60_000, dtype=np.float32).reshape(60, 1000), order=order)
    np.testing.assert_array_equal(load_npz(_saved(tmp_path / "d.npz", x=x, y=np.zeros(60, np.uint8))).x, x)
    x[spoilt] = np.nan
    complaint = _refusal(_saved(tmp_path / "d.npz", x=x, y=np.zeros(60, np.uint8)))
    assert (
        f"1 examples of x hold NaN, infinity or more than float32 can, the first is example {spoilt[0]};" in complaint
    )


@pytest.mark.parametrize(
    "y",
    [
        _Y / 2,
        (_Y / 2)[:, None].astype(np.float16),
        np.eye(6, dtype=np.uint8),
        np.eye(6) > 0,
        np.full((6, 2), -7),
        np.arange(36).reshape(6, 3, 2),
        np.arange(36).reshape(6, 3, 1, 2) / 7,
    ],
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_is_no_class_number_keeps_its_shape_and_its_kind(tmp_path: Path, y: np.ndarray, order: Any) -> None:
    loaded = load_npz(_saved(tmp_path / "d.npz", x=_X, y=np.asarray(y, order=order)))
    assert loaded.y.dtype == (np.float32 if y.dtype.kind == "f" else np.int64)
    np.testing.assert_array_equal(loaded.y, y.astype(loaded.y.dtype))
    assert loaded.class_numbers is None
    assert count_examples(tmp_path / "d.npz") == 6


def test_true_and_false_are_classes(tmp_path: Path) -> None:
    loaded = load_npz(_saved(tmp_path / "d.npz", x=_X, y=_Y > 0))
    np.testing.assert_array_equal(loaded.class_numbers, [0, 1, 1, 0, 1, 1])


def test_pixels_are_divided_by_255(tmp_path: Path) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    loaded = load_npz(_saved(tmp_path / "d.npz", x=pixels, y=np.zeros(4, np.int32)))
    assert count_examples(tmp_path / "d.npz") == 4
    np.testing.assert_array_equal(loaded.x, pixels.astype(np.float32) / np.float32(255))
    assert loaded.x.max() == 1.0


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("x", [np.asfortranarray(_X), _X.astype(">f4"), _X.astype(np.float16)])
def test_any_way_numpy_writes_an_array_is_read(tmp_path: Path, save: Any, x: np.ndarray) -> None:
    save(tmp_path / "d.npz", x=x, y=_Y.astype(">i2")[:, None])
    loaded = load_npz(tmp_path / "d.npz")
    np.testing.assert_array_equal(loaded.x, _X)
    np.testing.assert_array_equal(loaded.class_numbers, _Y)
    assert loaded.x.flags.c_contiguous


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"x": _X}, "no array 'y' (it holds: x)"),
        ({"images": _X, "labels": _Y}, "no array 'x' (it holds: images, labels)"),
        ({"x": _X, "y": _Y[:5]}, "6 examples and y has 5 labels"),
        ({"x": _X[:, 0], "y": _Y}, "x has shape (6,)"),
        ({"x": _X, "y": np.int64(3)}, "y has shape ()"),
        (
            {"x": _X, "y": np.full((6, 2, 2), 2**40)},
            "label 1099511627776 in y is out of range; integers are 2147483647",
        ),
        ({"x": _X, "y": np.zeros((6, 0))}, "it is empty: y has shape (6, 0)"),
        ({"x": _X, "y": _Y.astype(complex)}, "y is complex128; save class numbers as int64"),
        ({"x": _X, "y": np.where(_Y == 1, np.nan, _Y)}, "2 examples of y hold NaN, infinity or more than float32 can"),
        ({"x": _X, "y": np.full((6, 3), 1e39)}, "6 examples of y hold NaN, infinity or more than float32 can"),
        ({"x": _X, "y": _Y - 1}, "label -1 in y"),
        ({"x": _X, "y": _Y.astype(np.uint64) + np.uint64(2**64 - 4)}, f"label {2**64 - 2} in y"),
        ({"x": _X > 2, "y": _Y}, "x is bool; save it as uint8"),
        ({"x": _X.astype(np.int64) - 3, "y": _Y}, "x holds the integer -3; token ids are from 0"),
        ({"x": _X.astype(np.int64) << 40, "y": _Y}, "x holds the integer 1099511627776; token ids"),
        ({"x": _X.astype(complex), "y": _Y}, "x is complex128"),
        ({"x": _X.astype("U3"), "y": _Y}, "x is <U"),
        ({"x": _X.astype(object), "y": _Y}, "x is object"),
        ({"x": _X, "y": np.array(list("abcdef"), dtype=object)}, "y is object"),
        ({"x": np.where(_X == 9, np.nan, _X), "y": _Y}, "1 examples of x hold NaN, infinity"),
        ({"x": np.where(_X > 9, np.inf, _X), "y": _Y}, "the first is example 2"),
        ({"x": _X.astype(np.float64) * 1e300, "y": _Y}, "more than float32 can"),
        ({"x": np.asfortranarray(np.where(_X > 9, np.nan, _X)), "y": _Y}, "4 examples of x hold NaN, infinity"),
        ({"x": np.asfortranarray(np.where(_X > 9, np.nan, _X)), "y": _Y}, "the first is example 2"),
        ({"x": _X[:0], "y": _Y[:0]}, "it is empty"),
        ({"x": _X[:, :0], "y": _Y}, "it is empty"),
    ],
)
def test_unusable_arrays_are_refused_by_name(tmp_path: Path, arrays: dict[str, Any], complaint: str) -> None:
    path = _saved(tmp_path / "d.npz", **arrays)
    refusal = _refusal(path)
    with pytest.raises(DataError) as counting:
        count_examples(path)
    assert str(counting.value) == refusal
    assert refusal.startswith(f"{path}: ")
    assert complaint in refusal
    assert "\n" not in refusal


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none.npz", "there is no such file"), (tmp_path, "no .npy file is in it")):
        with pytest.raises(DataError, match=f"{path}: {why}; name an .npz file"):
            load_npz(path)


@pytest.mark.parametrize("blob", [b"", b"x,y\n1,2\n", b"PK\x05\x06" + bytes(18), b"\x93NUMPY\x01\x00"])
def test_what_is_no_archive_is_refused(tmp_path: Path, blob: bytes) -> None:
    (tmp_path / "d.npz").write_bytes(blob)
    with pytest.raises(DataError):
        load_npz(tmp_path / "d.npz")


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("sprung"),))


def test_a_pickle_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = _saved(tmp_path / "d.npz", x=np.array([_Trap()], dtype=object), y=_Y[:1])
    with pytest.raises(DataError, match="x is object"):
        load_npz(path)
    assert not Path("sprung").exists()


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    """A header that announces 4 TiB, and a member that really inflates to 64 MiB but announces six examples."""
    for shape, inflated in (((2**32, 256), 0), ((6, 4), 2**26)):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", header.getvalue() + bytes(inflated))
            y = io.BytesIO()
            np.lib.format.write_array_header_1_0(y, {"descr": "|u1", "fortran_order": False, "shape": shape[:1]})
            archive.writestr("y.npy", y.getvalue() + bytes(6))
        with pytest.raises(DataError), _address_space_limited_by(2**25):
            load_npz(tmp_path / "d.npz")


@contextmanager
def _address_space_limited_by(extra: int) -> Iterator[None]:
    """Allow this process `extra` more bytes of memory than it has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + extra, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_raise_nothing_but_data_errors(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes changed anywhere: in the zip structure, the array headers, the data."""
    path = _saved(tmp_path / "d.npz", x=_X, y=_Y)
    blob = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(blob) - 1))
        blob[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path.write_bytes(blob[: data.draw(st.integers(0, len(blob)))] if data.draw(st.booleans()) else blob)
    assert "\n" not in _refusal(path)


@pytest.mark.filterwarnings("ignore:Reading .* created on Python 2")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.one_of(
        st.text(max_size=200),
        st.recursive(st.sampled_from(["0", "'<f4'", "()", "-1", "1e9", "None"]), lambda s: s.map("({},".format)),
        st.builds(
            "{{'descr': {}, 'fortran_order': {}, 'shape': {}, }}".format,
            st.sampled_from(["'<f4'", "'|O'", "[('a', '<f4')]", "('<f4', (2,))", "'|V0'", "'x'", "None", "'M8[ns]'"]),
            st.sampled_from(["True", "False", "1", "None"]),
            st.sampled_from(
                ["(6, 4)", "(6, -4)", "(-6, -4)", "(True, 4)", "(6, 4L)", "(10**9,)", "6", f"({'9' * 99},)"]
            ),
        ),
    ),
    version=st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x09"]),
)
def test_hostile_headers_raise_nothing_but_data_errors(tmp_path: Path, header: str, version: bytes) -> None:
    text = header.encode("utf-8", "replace")
    length = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    y = io.BytesIO()
    np.save(y, _Y)
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY" + version + length + text + _X.tobytes())
        archive.writestr("y.npy", y.getvalue())
    assert "\n" not in _refusal(tmp_path / "d.npz")


def test_saved_data_come_back_and_equal_data_make_equal_bytes(tmp_path: Path) -> None:
    thirds = _X / np.float32(3)
    dataset = Dataset(np.asfortranarray(thirds), _Y)
    save_npz(tmp_path / "a.npz", dataset)
    save_npz(tmp_path / "b.npz", Dataset(thirds, _Y.copy()))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = load_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(loaded.x, dataset.x)
    np.testing.assert_array_equal(loaded.y, dataset.y)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    save_npz(path, Dataset(_X, _Y))
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(StorageError, match=r"d\.npz"):
            save_npz(path, Dataset(np.zeros((2**12, 8), np.float32), np.zeros(2**12, np.int64)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["d.npz"]


def test_an_idle_agent_loads_nothing_heavy_with_the_package() -> None:
    script = (
        "import sys, fedprune.data\n"
        "heavy = {'tensorflow', 'sklearn', 'scipy', 'urllib.request', 'ssl', 'rich'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# Several inputs and outputs, and weights of examples


def test_arrays_with_names_are_the_inputs_and_outputs_of_a_model(tmp_path: Path) -> None:
    words = np.arange(12).reshape(6, 2)
    path = _saved(tmp_path / "d.npz", x_word=words, x_image=_X, y_kind=_Y, y_size=_X[:, :1], other=np.zeros(3))

    loaded = load_npz(path)

    assert {name: (x.dtype, x.shape) for name, x in loaded.inputs.items()} == {
        "x_word": (np.int32, (6, 2)),
        "x_image": (np.float32, (6, 4)),
    }
    assert {name: (y.dtype, y.shape) for name, y in loaded.labels.items()} == {
        "y_kind": (np.int64, (6,)),
        "y_size": (np.float32, (6, 1)),
    }
    assert (len(loaded), count_examples(path), loaded.weight, loaded.class_numbers) == (6, 6, None, None)
    assert loaded.x_mean == pytest.approx(np.concatenate([words.ravel(), _X.ravel()]).mean())
    assert loaded.x_largest == 23.0


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    weight = np.arange(6, dtype=np.float32)
    data = Dataset({"x_b": _X, "x_a": _X[:, :2]}, {"y_d": _Y, "y_c": _X}, weight=weight).take(np.array([4, 1]))
    save_npz(tmp_path / "d.npz", data)

    loaded = load_npz(tmp_path / "d.npz")

    for found, expected in ((loaded.inputs, data.inputs), (loaded.labels, data.labels)):
        assert list(found) == list(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)
    np.testing.assert_array_equal(loaded.weight, [4.0, 1.0])


def test_arrays_with_names_are_none_of_a_model_beside_those_without(tmp_path: Path) -> None:
    path = _saved(tmp_path / "d.npz", x=_X, y=_Y, x_mean=np.float32(3), y_names=np.array(["a", "b"]))
    assert (list(load_npz(path).inputs), list(load_npz(path).labels)) == (["x"], ["y"])


_TWO = {"x_a": _X, "x_b": _X, "y_c": _Y, "y_d": _Y}


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        (_TWO | {"x_b": _X[:5]}, "x_a has 6 examples and x_b has 5; they must match one to one"),
        (_TWO | {"y_d": _Y[:5]}, "x_a has 6 examples and y_d has 5 labels; they must match one to one"),
        (_TWO | {"x_b": _X[:, 0]}, "x_b has shape (6,); it must be [examples, ...]"),
        (_TWO | {"x_b": np.full((6, 1), np.inf)}, "6 examples of x_b hold NaN, infinity"),
        (_TWO | {"x_b": np.full((6, 1), -1)}, "x_b holds the integer -1; token ids are from 0"),
        (_TWO | {"y_d": _Y - 5}, "label -5 in y_d is out of range"),
        (_TWO | {"y_d": np.array(["a"] * 6)}, "y_d is <U1; save class numbers"),
        ({f"x_{number}": _X for number in range(17)} | {"y": _Y}, "it has 17 arrays x_NAME; a model has at most 16"),
        ({"x_../a": _X, "y": _Y}, "it has no array 'x' (it holds: x_../a, y)"),
        ({"x": _X, "y": _Y, "weight": _Y[:5]}, "weight is int64 of shape (5,); it must be a number for each of the 6"),
        ({"x": _X, "y": _Y, "weight": _X}, "weight is float32 of shape (6, 4); it must be a number for each"),
        ({"x": _X, "y": _Y, "weight": np.array(["a"] * 6)}, "weight is <U1 of shape (6,); it must be a number"),
        ({"x": _X, "y": _Y, "weight": 1.0 - _Y}, "weight is negative for example 2; give it 0 if it is not to count"),
        ({"x": _X, "y": _Y, "weight": np.full(6, np.nan)}, "6 examples of weight hold NaN, infinity"),
    ],
)
def test_arrays_that_do_not_go_together_are_refused(tmp_path: Path, arrays: dict[str, Any], complaint: str) -> None:
    path = _saved(tmp_path / "d.npz", **arrays)

    assert complaint in _refusal(path)
    with pytest.raises(DataError) as counted:
        count_examples(path)
    assert complaint in str(counted.value)


@pytest.mark.parametrize(
    ("missing", "complaint"),
    [
        (np.array(2), "1 numbers of x are missing (NaN), and missing says 2; correct one of them"),
        (np.array([1, 0]), "missing is int64 of shape (2,); it must be one integer"),
        (np.array(1.0), "missing is float64 of shape (); it must be one integer"),
    ],
)
def test_missing_numbers_are_announced(tmp_path: Path, missing: np.ndarray, complaint: str) -> None:
    x = np.where(_X == 9, np.nan, _X)
    np.savez(tmp_path / "lacking.npz", x=x, y=_Y, missing=missing)
    for read in (load_npz, count_examples):
        with pytest.raises(DataError) as error:
            read(tmp_path / "lacking.npz")
        assert complaint in str(error.value)
    np.savez(tmp_path / "lacking.npz", x=x, y=_Y, missing=np.array(1))
    assert np.count_nonzero(np.isnan(load_npz(tmp_path / "lacking.npz").x)) == 1
    assert count_examples(tmp_path / "lacking.npz") == 6
