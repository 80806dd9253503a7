"""The book: each update counts once, a run goes on where it was, and damage is said to be damage."""

from __future__ import annotations

import shutil
import sqlite3
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from aggregator.best_model import best_version
from aggregator.book import AcceptedUpdate, Book, RoundRecord, Spread
from aggregator.presets import Preset
from aggregator.settings import WHOLE, Codec, FederationSettings
from fedprune.errors import StorageError
from fedprune.model.tensors import TensorClass, TensorSpec, TensorTable
from fedprune.wire.transfer import content_of
from tests.samples import TASK, UPDATE

COHORT = {"pi-1": 10, "pi-2": 20, "pi-3": 30}
CAP = 200
TABLE = TensorTable((TensorSpec("kernel", (400, 250), "float32", TensorClass.PRUNABLE, "dense"),))


def update(name: str = "update", weight: int = 10) -> AcceptedUpdate:
    content = content_of(name.encode())
    return AcceptedUpdate(content.digest, content.size, weight, 0.25, 1.5, 40.0, 60.0, 0.5, 1.0, 2.0, 3.0, 5, 4)


def record(round_: int, *, loss: float | None = 0.5) -> RoundRecord:
    return RoundRecord(
        round=round_,
        agents=2,
        evaluated_version=round_ + 1,
        loss=loss,
        metrics={"accuracy": 0.75, "auc": None},
        spreads={"accuracy": Spread(2, 0.5, (0.6, 0.7, 0.8), 0.9, "pi-1")},
        sparsity=0.5,
        bytes_up=1000,
        bytes_down=2000,
        seconds=1.5,
        train_seconds=1.25,
        train_loss=0.25,
        ignored=3,
        refused=1,
        capped=1,
        peak_memory_mb=90.5,
        kept=True,
        left_out=1,
        outliers=("pi-1",),
        suspects=(),
        delta_norm=2.0,
        statistics_norm=3.0,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "book.sqlite"


@pytest.fixture
def book(path: Path) -> Iterator[Book]:
    opened = Book.open(path)
    opened.start("run", TASK.digest, {"codec.model": "fp16"})
    yield opened
    opened.close()


def test_a_run_keeps_its_name_and_counts_its_starts(path: Path) -> None:
    for start, name in enumerate(("first", "second", "third"), start=1):
        book = Book.open(path)
        assert book.start(name, TASK.digest, {"codec.model": "fp16"}) == ("first", start)
        book.close()


def test_a_run_keeps_the_key_of_its_tickets(path: Path) -> None:
    keys = set()
    for _ in range(2):
        book = Book.open(path)
        book.start("run", TASK.digest, {"codec.model": "fp16"})
        keys.add(book.ticket_key)
        book.close()
    assert [len(key) for key in keys] == [16]


def test_another_task_is_refused(book: Book) -> None:
    with pytest.raises(StorageError, match="a run of another task; name an empty one"):
        book.start("run", UPDATE.digest, {"codec.model": "fp16"})


@pytest.mark.parametrize("other", [{"codec.model": "fp32", "seed": "0"}, {"seed": "0"}])
def test_a_run_keeps_the_settings_that_its_models_follow_from(book: Book, other: dict[str, str]) -> None:
    book.start("run", TASK.digest, {"codec.model": "fp16", "seed": "0"})

    with pytest.raises(StorageError, match=r"the run began with codec\.model = fp16; set it so in federation"):
        book.start("run", TASK.digest, other)


BEFORE = "mask | budget(40) | ternary | context"


@pytest.mark.parametrize(
    ("began", "said"),
    [
        (Codec(preset=Preset.FRUGAL, model=BEFORE), f'"fp16" and codec.model = "{BEFORE}"'),
        (Codec(preset=Preset.FRUGAL, model=WHOLE, model_values="fp32"), '"fp32" and codec.model = "whole"'),
    ],
    ids=["deltas", "whole"],
)
def test_a_run_whose_preset_meant_another_chain_says_what_to_write(path: Path, began: Codec, said: str) -> None:
    """Presets change with versions, runs do not."""
    settings = FederationSettings("t.fedtask", "run", codec=began)
    now = msgspec.structs.replace(settings, codec=Codec(preset=Preset.FRUGAL))
    book = Book.open(path)
    book.start("run", TASK.digest, settings.lasting(TABLE))

    with pytest.raises(StorageError) as raised:
        book.start("run", TASK.digest, now.lasting(TABLE))

    written = f"codec.model_values = {said}"
    assert str(raised.value) == f"the run began with {written}; set it so in federation.toml, or name an empty state"
    lines = "\n".join(written.split(" and "))
    document = f'task = "t.fedtask"\nstate = "run"\ncodec.preset = "frugal"\n{lines}'
    as_told = msgspec.convert(tomllib.loads(document), FederationSettings)
    assert book.start("run", TASK.digest, as_told.lasting(TABLE))[0] == "run"
    book.close()


def test_an_update_is_accepted_once_for_each_round_and_agent(book: Book) -> None:
    for round_ in range(2):
        book.assign(round_, COHORT, CAP)
    book.accept(0, {"pi-1": update()})
    with pytest.raises(StorageError):
        book.accept(0, {"pi-1": update("another")})
    book.accept(0, {"pi-2": update("second")})
    book.accept(1, {"pi-1": update("third")})

    assert book.accepted(0) == {"pi-1": update(), "pi-2": update("second")}
    assert book.accepted(1) == {"pi-1": update("third")}
    assert book.accepted(2) == {}
    assert book.updates() == [update(), update("second"), update("third")]


def test_an_update_of_a_round_that_is_finished_or_not_begun_is_refused(path: Path, book: Book) -> None:
    """Two aggregators on one directory: what one has merged the other cannot add to."""
    book.assign(0, COHORT, CAP)
    other = Book.open(path)
    other.finish(record(0))

    with pytest.raises(StorageError, match=r"round 1 is not open.* does another aggregator use this state directory"):
        book.accept(0, {"pi-1": update()})
    with pytest.raises(StorageError, match="round 2 is not open"):
        book.accept(1, {"pi-1": update()})
    assert other.accepted(0) == {}
    other.close()


def test_a_round_is_open_until_its_record_is_written(book: Book) -> None:
    assert (book.next_round(), book.cohort(0), book.records()) == (0, ({}, 0), [])
    book.assign(0, {"pi-1": 10}, CAP)
    book.assign(0, {"pi-2": 20, "pi-3": 30}, CAP)
    assert (book.next_round(), book.cohort(0), book.records()) == (0, (COHORT, CAP), [])
    book.finish(record(0))
    assert (book.next_round(), book.cohort(0), book.records()) == (1, (COHORT, CAP), [record(0)])
    assert book.cohort(1) == ({}, 0)


def test_an_agent_that_is_assigned_again_weighs_what_it_said_last(book: Book) -> None:
    book.assign(0, COHORT, CAP)
    book.assign(0, {"pi-1": 99}, CAP)

    assert book.cohort(0) == (COHORT | {"pi-1": 99}, CAP)


@pytest.mark.parametrize(
    ("metrics", "losses", "best"),
    [
        ([{"accuracy": 0.7}, {"accuracy": 0.9}, {"accuracy": 0.9}], [0.1, 0.5, 0.4], 2),
        (
            [{"mean_absolute_error": 3.0}, {"mean_absolute_error": 2.0}, {"mean_absolute_error": 4.0}],
            [0.1, 0.2, 0.3],
            2,
        ),
        ([{"auc": None, "accuracy": 0.9}, {"auc": 0.6, "accuracy": 0.5}], [0.1, 0.2], 2),
        (
            [
                {"a/root_mean_squared_error": 3.0, "b/accuracy": 0.9},
                {"a/root_mean_squared_error": 2.0, "b/accuracy": 0.1},
            ],
            [0.1, 0.2],
            2,
        ),
        ([{}, {}, {}], [0.5, None, 0.4], 3),
        ([{"auc": None}], [0.5], None),
    ],
)
def test_the_best_model_is_told_by_the_first_metric_or_the_loss(
    metrics: list[dict[str, float | None]], losses: list[float | None], best: int | None
) -> None:
    """Of two that are equally good the earlier one."""
    records = [
        msgspec.structs.replace(record(round_, loss=loss), metrics=each)
        for round_, (each, loss) in enumerate(zip(metrics, losses, strict=True))
    ]

    assert best_version(records) == best


def test_each_agents_last_update_before_a_round_is_known(book: Book) -> None:
    for round_, agents in enumerate((("pi-1", "pi-2"), ("pi-1", "pi-3"), ("pi-3",))):
        book.assign(round_, COHORT, CAP)
        for agent in agents:
            book.accept(round_, {agent: update(f"{round_}")})

    assert book.last_accepted(3) == {agent: update(last).digest for agent, last in zip(COHORT, "102", strict=True)}
    assert book.last_accepted(2) == {agent: update(last).digest for agent, last in zip(COHORT, "101", strict=True)}
    assert book.last_accepted(0) == {}


def test_everything_is_there_after_a_restart(path: Path, book: Book) -> None:
    book.assign(0, COHORT, CAP)
    book.accept(0, {"pi-1": update()})
    book.finish(record(0))
    book.assign(1, COHORT, CAP)
    book.accept(1, {"pi-2": update("second")})

    # The first connection is still open, as if its process had been killed.
    again = Book.open(path)
    assert (again.next_round(), again.cohort(1), again.accepted(1)) == (1, (COHORT, CAP), {"pi-2": update("second")})
    assert again.records() == [record(0)]
    again.close()


def test_a_book_of_another_format_is_refused(path: Path, book: Book) -> None:
    book._connection.execute("PRAGMA user_version = 1")

    with pytest.raises(
        StorageError, match="format 1, this fedprune reads 8; go on with the version that began the run"
    ):
        Book.open(path)


def test_a_book_can_be_opened_wherever_its_making_was_interrupted(path: Path, tmp_path: Path) -> None:
    copies: list[Path] = []

    def copy(_: str) -> None:
        copies.append(tmp_path / f"copy-{len(copies)}")
        shutil.copytree(path.parent, copies[-1], ignore=shutil.ignore_patterns("copy-*", "*-shm"))

    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.set_trace_callback(copy)
    Book(connection).close()

    assert len(copies) > 8
    for left in copies:
        book = Book.open(left / path.name)
        assert book.start("run", TASK.digest, {"codec.model": "fp16"}) == ("run", 1)
        book.close()


def test_a_loss_that_is_not_a_number_does_not_make_the_book_unreadable(book: Book) -> None:
    book.assign(0, COHORT, CAP)
    book.finish(record(0, loss=None))

    assert book.records() == [record(0, loss=None)]


@pytest.mark.parametrize("damage", [b"not a database", b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_book_is_said_to_be_unreadable(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)

    with pytest.raises(StorageError, match="the book: "):
        Book.open(path).start("run", TASK.digest, {"codec.model": "fp16"})


@pytest.mark.parametrize(
    ("statement", "reader"),
    [
        ("ALTER TABLE updates DROP COLUMN weight", lambda book: book.accepted(0)),
        ("DROP TABLE updates", lambda book: book.last_accepted(1)),
        ("DROP TABLE cohort", lambda book: book.cohort(0)),
        ("UPDATE rounds SET record = '{'", lambda book: book.records()),
        ("UPDATE rounds SET record = '{}'", lambda book: book.records()),
        ("DROP TABLE rounds", lambda book: book.next_round()),
        ("DROP TABLE updates", lambda book: book.accept(1, {"pi-2": update()})),
    ],
)
def test_damaged_entries_are_said_to_be_unreadable(path: Path, book: Book, statement: str, reader: object) -> None:
    book.assign(0, COHORT, CAP)
    book.accept(0, {"pi-1": update()})
    book.finish(record(0))
    other = sqlite3.connect(path)
    with other:
        other.execute(statement)
    other.close()

    with pytest.raises(StorageError, match="the book: "):
        reader(book)  # type: ignore[operator]


def test_a_book_in_a_directory_that_is_not_there_is_said_to_be_unreadable(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="the book: unable to open"):
        Book.open(tmp_path / "nowhere" / "book.sqlite")


def test_a_full_disk_is_said_to_be_and_what_was_accepted_stays(book: Book) -> None:
    book.assign(0, COHORT, CAP)
    book.accept(0, {"pi-1": update()})
    pages = book._connection.execute("PRAGMA page_count").fetchone()[0]
    book._connection.execute(f"PRAGMA max_page_count = {pages}")

    def fill() -> None:
        for round_ in range(1, 1000):
            book.assign(round_, COHORT, CAP)
            book.accept(round_, {"pi-1": update()})

    with pytest.raises(StorageError, match="full"):
        fill()
    assert book.accepted(0) == {"pi-1": update()}
    assert book.next_round() == 0


def remembering(book: Book, rounds: range, agent: str = "pi-1") -> None:
    for round_ in rounds:
        book.assign(round_, COHORT, CAP)
        book.accept(round_, {agent: update(f"{round_}")}, {agent: b"%d" % round_})
        book.finish(record(round_))


def test_the_signs_of_an_agents_last_updates_are_remembered_and_no_others(book: Book) -> None:
    remembering(book, range(11))

    assert book.remembered("pi-1", 11) == [b"%d" % round_ for round_ in range(10, 2, -1)]
    assert book.remembered("pi-1", 5) == [b"4", b"3"], "those before are forgotten"
    assert book.remembered("pi-2", 11) == []


def test_an_update_is_remembered_before_its_round_is_merged(book: Book) -> None:
    """The gateway may be started again: it reads the round's updates as they were coded, and the next ones after it."""
    remembering(book, range(2))
    book.assign(2, COHORT, CAP)
    book.accept(2, {"pi-1": update("third")}, {"pi-1": b"2"})

    assert book.remembered("pi-1", 2) == [b"1", b"0"]
    assert book.remembered("pi-1", 3) == [b"2", b"1", b"0"]


def test_a_rollback_forgets_what_the_rounds_that_it_undoes_sent(book: Book) -> None:
    remembering(book, range(4))

    book.roll_back(2, "another-run")

    assert book.remembered("pi-1", 10) == [b"1", b"0"]


def test_the_reasons_for_a_rounds_updates_that_do_not_count_are_its_own(book: Book) -> None:
    for round_ in range(2):
        book.assign(round_, COHORT, CAP)
        book.accept(round_, {agent: update(f"{agent} {round_}") for agent in COHORT})
        book.leave_out(round_, {"pi-1": f"why in {round_}"})

    assert [book.left_out_in(round_) for round_ in range(3)] == [{"pi-1": "why in 0"}, {"pi-1": "why in 1"}, {}]
