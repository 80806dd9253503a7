"""Tables and time series in CSV files: rows and windows, and one line for each kind of fault."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedprune.data import load_examples, most_examples, read_examples, save_npz
from fedprune.data.description import MinMax, Series, Standard, Table
from fedprune.data.example_buffer import ExampleBuffer
from fedprune.data.tables import rows as rows_module
from fedprune.data.unlabelled import read_unlabelled
from fedprune.errors import DataError

_TABLE = Table(inputs=("t", "h"), label="state", labels=("off", "on"))
_SERIES = Series(inputs=("ax",), label="move", window=3, stride=2, group="who", labels=("sit", "walk"))


def _written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_columns_are_found_by_name_and_labels_become_the_places_of_their_names(tmp_path: Path) -> None:
    path = _written(tmp_path / "d.csv", "h,note,state,t\n40,x,on,21.5\n50,,off,-3e1\n")
    data = load_examples(path, _TABLE)
    assert (data.x.dtype, data.y.dtype) == (np.float32, np.int64)
    assert data.x.tolist() == [[21.5, 40.0], [-30.0, 50.0]]
    assert data.y.tolist() == [1, 0]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_separator_is_found_in_the_header(tmp_path: Path, separator: str, end: str) -> None:
    lines = (separator.join(cells) for cells in (("t", "h", "state"), ("1", "2", "on")))
    path = _written(tmp_path / "d.csv", b"\xef\xbb\xbf" + end.join(lines).encode())
    assert load_examples(path, _TABLE).x.tolist() == [[1.0, 2.0]]


def test_without_names_the_label_is_a_number(tmp_path: Path) -> None:
    path = _written(tmp_path / "d.csv", "t,h,power\n1,2,0.5\n3,4,-7\n")
    data = load_examples(path, Table(inputs=("t", "h"), label="power"))
    assert data.y.dtype == np.float32
    assert data.y.tolist() == [[0.5], [-7.0]]


def test_a_directory_is_all_its_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, value in (("b.csv", 2), ("a.csv", 1), ("c.txt", 9)):
        _written(tmp_path / name, f"t,h,state\n{value},0,on\n")
    assert load_examples(tmp_path, _TABLE).x[:, 0].tolist() == [1.0, 2.0]
    assert most_examples(tmp_path) == 4


_FAULTS = [
    ("1,,on", "1 rows with an empty cell skipped", "column 'h' is empty; fill it in"),
    ("1", "1 rows with an empty cell skipped", "column 'h' is empty; fill it in"),
    ('1,"3,5",on', "1 rows with a decimal comma skipped", "column 'h' is '3,5'; write 3.5"),
    ("1,3,5,on", "1 rows with more cells than the header skipped", "4 cells, the header has 3"),
    ("1,2026-11-26,on", "1 rows with a date or a time for a number skipped", "write it as a number"),
    ("1,26.11.2026 03:15,on", "1 rows with a date or a time for a number skipped", "write it as a number"),
    ("1,high,on", "1 rows without a finite number where one should be skipped", "column 'h' is 'high'"),
    ("1,2026_11_26,on", "1 rows without a finite number where one should be skipped", "column 'h' is '2026_11_26'"),
    ("1,nan,on", "1 rows without a finite number where one should be skipped", "column 'h' is 'nan'"),
    ("1,1e39,on", "1 rows without a finite number where one should be skipped", "column 'h' is '1e39'"),
    (
        "1,2,broken",
        "1 rows with a label that the task does not know skipped",
        "'broken' is none of the task's (off, on)",
    ),
    (b"1,\xe9,on", "1 rows that are not text in UTF-8 skipped", "save the file in UTF-8"),
    ('1,"2"x,on', "1 rows with wrong quotes skipped", "correct its quotes"),
]


@pytest.mark.parametrize(("row", "counted", "cure"), _FAULTS)
def test_a_row_that_cannot_be_used_is_named_counted_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, row: str | bytes, counted: str, cure: str
) -> None:
    middle = row if isinstance(row, bytes) else row.encode()
    path = _written(tmp_path / "d.csv", b"t,h,state\n1,2,on\n" + middle + b"\n3,4,off\n")
    with caplog.at_level(logging.WARNING):
        data = load_examples(path, _TABLE)
    assert data.x.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    (line,) = caplog.messages
    assert line.startswith(f"{path}: {counted}, the first is d.csv, line 3: ")
    assert cure in line


def test_faults_of_a_kind_are_counted_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _written(tmp_path / "d.csv", "t,h,state\n" + "1,,on\n" * 500 + "1,2,on\n" + "x,2,on\n" * 3)
    assert len(load_examples(path, _TABLE)) == 1
    assert len(caplog.messages) == 2
    assert "500 rows with an empty cell skipped, the first is d.csv, line 2" in caplog.messages[0]


def test_a_file_of_which_nothing_is_left_is_refused_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _written(tmp_path / "d.csv", 't;h;state\n1;"3,5";on\n')
    with pytest.raises(DataError, match=r"no example is left: 1 rows with a decimal comma; the warnings before this"):
        load_examples(path, _TABLE)
    assert "column 'h' is '3,5'; write 3.5" in caplog.text


@pytest.mark.parametrize(("label", "labels"), [("diary", ("x",)), ("diary", ()), ("t", ())])
def test_an_error_that_a_gateway_hears_shows_nothing_that_the_data_hold(
    tmp_path: Path, label: str, labels: tuple[str, ...]
) -> None:
    path = _written(tmp_path / "d.csv", "t,diary,secret\nhush,hush,hush\n")
    with pytest.raises(DataError, match="no example is left") as refusal:
        load_examples(path, Table(inputs=("secret",), label=label, labels=labels))
    assert "hush" not in str(refusal.value)
    with pytest.raises(DataError) as refusal:
        load_examples(path, Table(inputs=("none",), label="t"))
    assert "diary" not in str(refusal.value)


def test_rows_that_are_appended_while_they_are_read_wait_for_the_next_time() -> None:
    buffer = ExampleBuffer((1,), np.float32, 2, of_classes=True)
    for value in range(3):
        buffer.add([value], 0)
    assert buffer.examples("d.csv").in_memory.x.tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("t,state\n1,on\n", "no column 'h' .its first line: t, state.; correct the names there"),
        ("t,h,h,state\n1,2,3,on\n", "two columns 'h'"),
        ("", "no column 't'"),
        ("t,h,state\n", "no example in it"),
        ("t,h,state\n1,2,on\n".encode("utf-16"), "in UTF-16; save it in UTF-8"),
        ("t,h,state\n1," + "9" * 2**20 + ",on\n", "a line has more than 1048576 bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str | bytes, complaint: str
) -> None:
    with pytest.raises(DataError) as refusal:
        load_examples(_written(tmp_path / "d.csv", content), _TABLE)
    assert re.search(complaint, f"{caplog.text} {refusal.value}")


def test_a_file_without_a_column_costs_only_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _written(tmp_path / "a.csv", "t,state\n1,on\n")
    _written(tmp_path / "b.csv", "t,h,state\n1,2,on\n")
    assert len(load_examples(tmp_path, _TABLE)) == 1
    assert "1 files without the task's columns skipped, the first is a.csv: it has no column 'h'" in caplog.text


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("none.csv", "there is no such file; name a .csv or .tsv file"), ("d.txt", "learns from .csv or .tsv files")],
)
def test_a_path_that_is_no_table_is_refused(tmp_path: Path, name: str, complaint: str) -> None:
    _written(tmp_path / "d.txt", "t,h,state\n1,2,on\n")
    with pytest.raises(DataError, match=complaint):
        load_examples(tmp_path / name, _TABLE)


def test_a_directory_of_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MAX_FILES", 1)
    for name in ("a.csv", "b.csv"):
        _written(tmp_path / name, "t,h,state\n1,2,on\n")
    with pytest.raises(DataError, match="more than 1 files"):
        load_examples(tmp_path, _TABLE)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_raise_anything_but_data_errors(tmp_path: Path, blob: bytes, start_well: bool) -> None:
    path = _written(tmp_path / "d.csv", (b"t,h,state\n" if start_well else b"") + blob)
    with suppress(DataError):
        assert np.isfinite(load_examples(path, _TABLE).x).all()


# Time series


def _series(rows: list[tuple[str, str, str]]) -> str:
    return "who,ax,move\n" + "".join(f"{','.join(row)}\n" for row in rows)


def _windows(
    tmp_path: Path, rows: list[tuple[str, str, str]], series: Series = _SERIES
) -> tuple[list[list[float]], list]:
    data = load_examples(_written(tmp_path / "d.csv", _series(rows)), series)
    assert data.x.shape[1:] == (3, 1)
    return data.x[..., 0].tolist(), data.y.tolist()


def test_windows_begin_a_stride_apart(tmp_path: Path) -> None:
    x, y = _windows(tmp_path, [("ann", str(t), "sit") for t in range(8)])
    assert x == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    assert y == [0, 0, 0]


def test_a_stride_longer_than_the_window_leaves_rows_out(tmp_path: Path) -> None:
    series = Series(inputs=("ax",), label="move", window=3, stride=5, group="who", labels=("sit", "walk"))
    x, _ = _windows(tmp_path, [("ann", str(t), "sit") for t in range(10)], series)
    assert x == [[0, 1, 2], [5, 6, 7]]


def test_windows_cross_neither_groups_nor_classes_and_groups_may_alternate(tmp_path: Path) -> None:
    rows = [
        (who, f"{100 * (who == 'bob') + t}", "walk" if t > 2 else "sit") for t in range(6) for who in ("ann", "bob")
    ]
    x, y = _windows(tmp_path, rows)
    assert sorted(x) == [[0, 1, 2], [3, 4, 5], [100, 101, 102], [103, 104, 105]]
    assert sorted(zip(y, (first for first, *_ in x), strict=True)) == [(0, 0), (0, 100), (1, 3), (1, 103)]


def test_windows_do_not_cross_files(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        _written(tmp_path / name, _series([("ann", "1", "sit")] * 4))
    assert len(load_examples(tmp_path, _SERIES)) == 2


def test_a_bad_row_ends_its_groups_window_and_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [(who, "" if (who, t) == ("ann", 2) else str(t), "sit") for t in range(6) for who in ("ann", "bob")]
    x, _ = _windows(tmp_path, rows)
    assert sorted(x) == [[0, 1, 2], [2, 3, 4], [3, 4, 5]]
    assert "1 rows with an empty cell skipped" in caplog.text
    assert "1 stretches of rows shorter than a window skipped, the first is d.csv, line 2: 2 rows" in caplog.text


def test_rows_of_nobody_known_are_no_group_and_end_every_window(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [("" if t == 3 else "ann", str(t), "sit") for t in range(7)] + [(" ", "9", "sit")] * 4
    x, _ = _windows(tmp_path, rows)
    assert x == [[0, 1, 2], [4, 5, 6]]
    assert "5 rows with an empty cell skipped, the first is d.csv, line 5: column 'who' is empty" in caplog.text


def test_with_a_number_as_label_a_window_has_its_last_rows(tmp_path: Path) -> None:
    path = _written(tmp_path / "d.csv", "ax,next\n" + "".join(f"{t},{t + 1}\n" for t in range(5)))
    data = load_examples(path, Series(inputs=("ax",), label="next", window=3, stride=1))
    assert data.y.tolist() == [[3.0], [4.0], [5.0]]


def test_no_more_windows_come_than_an_agent_says_that_it_has(tmp_path: Path) -> None:
    path = _written(tmp_path / "d.csv", _series([("ann", "1", "sit")] * 50))
    series = Series(inputs=("ax",), label="move", window=1, stride=1, labels=("sit",))
    assert len(load_examples(path, series)) == 50 <= most_examples(path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["1", "2", "", "x"]), st.sampled_from(["sit", "walk", "?"]))
    ),
    st.integers(1, 4),
    st.integers(1, 5),
)
def test_every_window_is_consecutive_good_rows_of_one_group_and_class(
    tmp_path: Path, rows: list[tuple[str, str, str]], window: int, stride: int
) -> None:
    """Compared with a plain cutting of the lists that are left between faults."""
    series = Series(inputs=("ax",), label="move", window=window, stride=stride, group="who", labels=("sit", "walk"))
    path = _written(tmp_path / "d.csv", _series(rows))
    expected = 0
    for group in "ab":
        stretch: list[str] = []
        runs = [stretch]
        for who, value, move in rows:
            if who == group:
                good = value in ("1", "2") and move != "?"
                if not good or (stretch and stretch[-1] != move):
                    stretch = []
                    runs.append(stretch)
                if good:
                    stretch.append(move)
        expected += sum(max(0, (len(run) - window) // stride + 1) for run in runs)
    try:
        assert len(load_examples(path, series)) == expected
    except DataError:
        assert expected == 0


_FILLED = Table(inputs=("t", "h"), label="power", normalize=Standard(mean=(10.0, 50.0), std=(5.0, 10.0)))


def test_empty_cells_are_taken_as_the_mean_where_the_task_has_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rooms.csv"
    path.write_text("t,h,power\n15, ,1\n,40,2\n20,60,3\n,,4\n10,50,\n")

    data = load_examples(path, _FILLED)

    assert data.x.tolist() == [[1.0, 0.0], [0.0, -1.0], [2.0, 1.0]]
    assert data.y.tolist() == [[1.0], [2.0], [3.0]]
    assert (
        "2 empty cells are taken as the mean of their column, the first is rooms.csv, line 2: column 'h'" in caplog.text
    )
    assert "2 rows with an empty cell skipped, the first is rooms.csv, line 5" in caplog.text


def test_empty_cells_of_windows_are_taken_as_the_mean(tmp_path: Path) -> None:
    series = Series(("t", "h"), "power", window=2, stride=2, normalize=_FILLED.normalize)
    path = tmp_path / "rooms.csv"
    path.write_text("t,h,power\n15,,1\n,40,2\n20,60,3\n10,50,4\n")

    assert load_examples(path, series).x.tolist() == [[[1.0, 0.0], [0.0, -1.0]], [[2.0, 1.0], [0.0, 0.0]]]


def test_a_model_in_use_takes_empty_cells_as_training_does(tmp_path: Path) -> None:
    path = tmp_path / "rooms.csv"
    path.write_text("t,h\n15,\n,\n")

    first, second = read_unlabelled(path, _FILLED)

    assert first.inputs is not None
    np.testing.assert_array_equal(first.inputs["x"], np.float32([15, np.nan]))
    assert "column 't' is empty" in second.fault


def test_rows_with_an_empty_cell_are_skipped_where_no_mean_stands_in(tmp_path: Path) -> None:
    path = tmp_path / "rooms.csv"
    path.write_text("t,h,power\n15,,1\n20,60,3\n")
    table = Table(inputs=("t", "h"), label="power", normalize=MinMax(minimum=(0.0,), maximum=(10.0,)))

    assert len(load_examples(path, table)) == 1


def test_what_is_missing_survives_being_shared_out(tmp_path: Path) -> None:
    path = tmp_path / "rooms.csv"
    path.write_text("t,h,power\n15,,1\n,40,2\n")
    save_npz(tmp_path / "share.npz", read_examples(path, _FILLED))

    assert load_examples(tmp_path / "share.npz", _FILLED).x.tolist() == [[1.0, 0.0], [0.0, -1.0]]
    assert most_examples(tmp_path / "share.npz") == 2
    with pytest.raises(
        DataError, match=r"example 0 of x lacks a number \(NaN\), and the task fills in none; fill it in"
    ):
        load_examples(tmp_path / "share.npz", Table(inputs=("t", "h"), label="power"))
