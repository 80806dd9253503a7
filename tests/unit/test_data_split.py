"""`fedprune data split`: the files, what they hold, and the command around it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fedprune.data import Dataset, load_npz
from fedprune.data.command import data
from fedprune.data.dataset import Provenance, Source
from fedprune.data.partition import ByGroup, Dirichlet, Iid
from fedprune.data.prepare import SplitSummary, prepare
from fedprune.errors import DataError


def _numbered(labels: np.ndarray, first: int = 0) -> Dataset:
    """Each example is its own number, so that it can be recognised in a file."""
    return Dataset(np.arange(first, first + len(labels), dtype=np.float32)[:, None], labels.astype(np.int64))


_ONE_FILE = Source("mine.npz", _numbered(np.repeat([0, 1, 2], [200, 90, 10])), test=None)
_WITH_TEST = replace(_ONE_FILE, test=_numbered(np.repeat([0, 1, 2], 20), first=1000))


def _prepare(
    source: Source, out: Path, *, agents: int = 3, each: int = 50, held: int = 30, seed: int = 1
) -> SplitSummary:
    return prepare(source, Dirichlet(0.5), agents=agents, examples_per_agent=each, held_out=held, seed=seed, out=out)


def _numbers(path: Path) -> list[int]:
    return [int(number) for number in load_npz(path).x[:, 0]]


def test_no_example_is_in_two_files_and_labels_stay_with_their_examples(tmp_path: Path) -> None:
    summary = _prepare(_ONE_FILE, tmp_path)
    files = [part.file for part in (*summary.agents, summary.held_out)]
    assert files == ["agent-0.npz", "agent-1.npz", "agent-2.npz", "held-out.npz"]
    numbers = [number for file in files for number in _numbers(tmp_path / file)]
    assert len(numbers) == len(set(numbers)) == 3 * 50 + 30
    for file in files:
        loaded = load_npz(tmp_path / file)
        np.testing.assert_array_equal(loaded.y, _ONE_FILE.train.y[loaded.x[:, 0].astype(int)])


def test_what_is_held_out_has_the_mixture_of_the_whole(tmp_path: Path) -> None:
    assert _prepare(_ONE_FILE, tmp_path, held=30).held_out.per_class == {0: 20, 1: 9, 2: 1}
    assert _prepare(_ONE_FILE, tmp_path, held=10_000).held_out.per_class == {0: 40, 1: 18, 2: 2}


def test_a_test_split_is_held_out_and_nothing_of_the_training_split(tmp_path: Path) -> None:
    summary = _prepare(_WITH_TEST, tmp_path, each=100, held=10_000)
    assert summary.held_out.per_class == {0: 20, 1: 20, 2: 20}
    assert min(_numbers(tmp_path / "held-out.npz")) == 1000
    assert sum(part.examples for part in summary.agents) == 300


def test_the_same_seed_makes_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        _prepare(_ONE_FILE, tmp_path / name, seed=seed)
    for file in ("agent-0.npz", "held-out.npz"):
        a, b, c = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert a == b != c


def test_the_summary_counts_what_is_in_the_files(tmp_path: Path) -> None:
    summary = _prepare(_ONE_FILE, tmp_path)
    for part in (*summary.agents, summary.held_out):
        loaded = load_npz(tmp_path / part.file)
        assert part.examples == len(loaded) == sum(part.per_class.values())
        assert all(count == np.count_nonzero(loaded.y == label) for label, count in part.per_class.items())
    written = json.loads((tmp_path / "split.json").read_text())
    assert written["classes"] == 3
    assert written["input_shapes"] == {"x": [1]}
    assert [part["file"] for part in written["agents"]] == [part.file for part in summary.agents]


def test_too_few_examples_are_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mine\.npz: 3 agents x 90 examples are 270, there are 240"):
        _prepare(_ONE_FILE, tmp_path / "out", each=90, held=60)
    assert not (tmp_path / "out").exists()


def test_a_stand_in_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    summary = _prepare(replace(_WITH_TEST, note="mine stands in"), tmp_path, each=1500)
    assert [part.examples for part in summary.agents] == [100] * 3
    assert summary.note == "mine stands in; 300 examples are enough for 100 instead of 1500 an agent"


def test_data_too_small_to_hold_anything_out_are_refused(tmp_path: Path) -> None:
    tiny = Source("tiny.npz", _numbered(np.arange(10)), test=None)
    with pytest.raises(DataError, match=r"tiny\.npz: nothing would be held out of 10 examples in 10 classes"):
        prepare(tiny, Iid(), agents=1, examples_per_agent=1, held_out=5, seed=1, out=tmp_path)


@pytest.mark.parametrize(
    "y",
    [np.arange(300) / 7, np.eye(300)[:, :5], np.arange(1200).reshape(300, 2, 2)],
    ids=["numbers", "rows", "classes of places"],
)
def test_labels_that_are_no_classes_are_shared_out_alike(tmp_path: Path, y: np.ndarray) -> None:
    rows = y if y.dtype == np.int64 else y.astype(np.float32)
    source = Source("mine.npz", Dataset(np.arange(300, dtype=np.float32)[:, None], rows), test=None)
    summary = prepare(source, Iid(), agents=3, examples_per_agent=50, held_out=60, seed=1, out=tmp_path)
    files = [part.file for part in (*summary.agents, summary.held_out)]
    numbers = [number for file in files for number in _numbers(tmp_path / file)]
    assert len(numbers) == len(set(numbers)) == 3 * 50 + 60
    for file in files:
        loaded = load_npz(tmp_path / file)
        np.testing.assert_array_equal(loaded.y, rows[loaded.x[:, 0].astype(int)])
    assert (summary.classes, [part.per_class for part in summary.agents]) == (0, [{}] * 3)
    with pytest.raises(DataError, match=r"mine\.npz: y is not one class number an example, which dirichlet:0\.5 needs"):
        _prepare(source, tmp_path / "skewed")


def test_several_inputs_and_outputs_and_weights_stay_together(tmp_path: Path) -> None:
    numbers = np.arange(100, dtype=np.float32)
    y = {"y_kind": np.arange(100) % 3, "y_size": numbers}
    mine = Dataset({"x_a": numbers[:, None], "x_b": -numbers[:, None]}, y, "mine.npz", weight=numbers)
    source = Source("mine.npz", mine, test=None)

    summary = prepare(source, Iid(), agents=2, examples_per_agent=30, held_out=20, seed=1, out=tmp_path)

    assert (summary.classes, summary.input_shapes) == (0, {"x_a": (1,), "x_b": (1,)})
    for part in (*summary.agents, summary.held_out):
        found = load_npz(tmp_path / part.file)
        rows = found.inputs["x_a"][:, 0]
        np.testing.assert_array_equal(found.inputs["x_b"][:, 0], -rows)
        np.testing.assert_array_equal(found.labels["y_kind"], rows.astype(int) % 3)
        np.testing.assert_array_equal(found.labels["y_size"], rows)
        np.testing.assert_array_equal(found.weight, rows)
    with pytest.raises(DataError, match=r"mine\.npz: y_kind and y_size are not one class number an example, which dir"):
        _prepare(source, tmp_path / "skewed")


def test_the_command_splits_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=np.zeros((100, 4), np.uint8), y=np.arange(100) % 4)
    arguments = ["split", "--source", str(tmp_path / "mine.npz"), "--agents", "2", "--examples-per-agent", "30"]
    shown = CliRunner().invoke(data, [*arguments, "--out", str(tmp_path / "a")], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "agent-1.npz" in shown.output
    as_json = CliRunner().invoke(data, [*arguments, "--json", "--out", str(tmp_path / "b")], catch_exceptions=False)
    assert json.loads(as_json.output) == json.loads((tmp_path / "b" / "split.json").read_text())
    assert (tmp_path / "a" / "agent-1.npz").read_bytes() == (tmp_path / "b" / "agent-1.npz").read_bytes()


def test_a_file_to_split_may_have_any_name(tmp_path: Path) -> None:
    source, out = tmp_path / os.fsdecode(b"caf\xe9.npz"), tmp_path / os.fsdecode(b"\xff")
    np.savez(source, x=np.zeros((40, 4)), y=np.arange(40) % 2)
    options = ("--source", str(source), "--agents", "2", "--examples-per-agent", "4", "--out", str(out), "--json")

    done = CliRunner().invoke(data, ["split", *options], catch_exceptions=False)

    assert json.loads(done.output)["source"].endswith(r"caf\xe9.npz")
    assert json.loads((out / "split.json").read_bytes()) == json.loads(done.output)


def test_data_that_are_no_arrays_want_a_task_that_says_how_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "rooms.csv").write_text("t,power\n1,2\n")
    (tmp_path / "photos").mkdir()
    for source in ("rooms.csv", "photos"):
        refusal = CliRunner().invoke(data, ["split", "--source", str(tmp_path / source), "--out", str(tmp_path)])
        assert isinstance(refusal.exception, DataError)
        assert "name with --task the task.toml" in str(refusal.exception)


def test_the_table_shows_data_without_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=np.zeros((100, 4), np.uint8), y=np.linspace(-1, 1, 100))
    arguments = ["split", "--source", str(tmp_path / "mine.npz"), "--agents", "2", "--examples-per-agent", "30"]
    shown = CliRunner().invoke(
        data, [*arguments, "--partition", "iid", "--out", str(tmp_path / "a")], catch_exceptions=False
    )
    assert shown.exit_code == 0
    assert ["agent-1.npz", "30"] in [line.split() for line in shown.output.splitlines()]


def test_the_table_stays_readable_with_many_classes_and_agents(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=np.zeros((1000, 4), np.uint8), y=np.arange(1000) % 100)
    arguments = ["split", "--source", str(tmp_path / "mine.npz"), "--agents", "80", "--examples-per-agent", "10"]
    shown = CliRunner().invoke(data, [*arguments, "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert len(shown.output.splitlines()) < 40
    assert "of 80 agents" in shown.output
    assert "held-out.npz" in shown.output


def _of_groups(groups: np.ndarray) -> Source:
    return replace(_ONE_FILE, train=_ONE_FILE.train.of(Provenance(groups.astype(np.int32))))


def test_windows_that_overlap_held_out_ones_are_nobodys(tmp_path: Path) -> None:
    stretches = np.repeat(np.arange(3, dtype=np.int32), 100)
    source = replace(_ONE_FILE, train=_ONE_FILE.train.of(Provenance(stretches, stretches, overlap=2)))
    summary = prepare(source, Iid(), agents=2, examples_per_agent=120, held_out=1000, seed=1, out=tmp_path)
    apart = set(_numbers(tmp_path / "held-out.npz"))
    trained = {number for part in summary.agents for number in _numbers(tmp_path / part.file)}
    assert len(apart) == 60
    assert not {number - before for number in apart for before in (0, 1, 2)} & trained
    assert [part.examples for part in summary.agents] == [117, 117]
    assert "windows that overlap held-out ones are left out; 234 examples are enough for 117" in summary.note
    assert load_npz(tmp_path / "agent-0.npz").provenance.overlap == 2


def test_a_group_is_one_agents_or_held_out(tmp_path: Path) -> None:
    groups = np.arange(300) % 10
    source = _of_groups(groups)
    summary = prepare(source, ByGroup(), agents=3, examples_per_agent=1000, held_out=1000, seed=1, out=tmp_path)
    owners = [{int(groups[number]) for number in _numbers(tmp_path / part.file)} for part in summary.agents]
    apart = {int(groups[number]) for number in _numbers(tmp_path / "held-out.npz")}
    assert len(apart) == 2
    assert sorted(group for each in (*owners, apart) for group in each) == list(range(10))
    assert summary.partition == "group"


@pytest.mark.parametrize(
    ("groups", "said"),
    [(None, "nothing tells groups apart"), (np.zeros(300, np.int64), "need a group each, there are 0")],
)
def test_groups_that_cannot_be_shared_out_are_one_line(tmp_path: Path, groups: np.ndarray | None, said: str) -> None:
    source = _ONE_FILE if groups is None else _of_groups(groups)
    with pytest.raises(DataError, match=f"mine.npz: .*{said}"):
        prepare(source, ByGroup(), agents=3, examples_per_agent=9, held_out=9, seed=1, out=tmp_path)


def test_windows_are_shared_out_by_the_person_they_are_of(tmp_path: Path) -> None:
    lines = [f"{number},{person},sit" for person in "abcdef" for number in range(12)]
    (tmp_path / "people.csv").write_text("\n".join(["ax,who,move", *lines]))
    (tmp_path / "task.toml").write_text(
        '[data]\nform = "series"\ninputs = ["ax"]\nlabel = "move"\nlabels = ["sit"]\nwindow = 4\nstride = 4\n'
        'group = "who"\n'
    )
    arguments = ["split", "--source", str(tmp_path / "people.csv"), "--task", str(tmp_path / "task.toml"), "--json"]
    result = CliRunner().invoke(
        data, [*arguments, "--partition", "group", "--agents", "5", "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    assert [part["examples"] for part in json.loads(result.output)["agents"]] == [3] * 5
