"""State that is damaged, missing, another's, or has no room: it is said, and nothing is lost."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import msgspec
import pytest

from aggregator.book import Book, RoundRecord
from fedprune.task.bundle import load_bundle, write_bundle
from fedprune.task.run_directory import BOOK, CHECKPOINTS
from tests.brokers import MISSING
from tests.federations import Site
from tests.processes import Child
from tests.refusals import STORAGE, refusal

needs_mosquitto = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def contents(directory: Path) -> dict[str, str]:
    """Every file, by its digest."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def begun(site: Site) -> Path:
    """The configuration of a run that has been started: ``run`` holds its state."""
    config = site.federation("run")
    with Child("aggregator", config) as aggregator:
        aggregator.says("waiting for 2 agents")
        aggregator.interrupt()
    return config


def _finish_round(state: Path) -> None:
    """Let the book say that round 1 is over."""
    book = Book.open(state / BOOK)
    book.assign(0, {"pi-1": 24, "pi-2": 24}, 240)
    book.finish(RoundRecord(0, 2, 1, 1.0, {}, {}, 0.0, 1, 1, 1.0, 1.0, 1.0, 0, 0, 0, 1.0, True, 0, (), (), 0.0, 0.0))
    book.close()


def _renamed(task: Path, directory: Path) -> Path:
    """The same task under another name: another task."""
    bundle = load_bundle(task)
    weights = None if bundle.task.initial else bundle.initial_weights()
    other = directory / "other.fedtask"
    other.write_bytes(
        write_bundle(
            msgspec.structs.replace(bundle.task, name="other"),
            network=bundle.network,
            weights=weights,
            graphs=bundle.graphs,
        )
    )
    return other


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        (8, "the run of 8 rounds will end at sparsity 0.80"),
        (2, "will end at sparsity 0.63, not at the task's target 0.80; set rounds.count to 5, or build the task with"),
    ],
)
def test_the_sparsity_that_a_run_will_end_with_is_said_when_it_starts(nowhere: Site, rounds: int, said: str) -> None:
    with Child("aggregator", nowhere.federation("run", rounds={"cohort": 1, "count": rounds})) as aggregator:
        aggregator.says(said)
        aggregator.interrupt()


@needs_mosquitto
def test_a_run_of_another_task_is_not_touched(begun: Path, site: Site, tiny_task: Path) -> None:
    before = contents(begun.parent / "run")

    other = Site(site.path, site.url, _renamed(tiny_task, site.path))
    said = refusal(STORAGE, "aggregator", other.federation("run"))

    assert said.startswith("the state directory holds a run of another task; name an empty ")
    after = contents(begun.parent / "run")
    changed = {name for name in before if after[name] != before[name]}
    assert changed <= {BOOK, ".owner"}, "but for the book's count of starts, and who owned the directory last"


@needs_mosquitto
def test_a_checkpoint_that_is_damaged_or_missing(begun: Path, site: Site) -> None:
    state = site.path / "run"
    checkpoint = state / CHECKPOINTS / "000001.safetensors"
    _finish_round(state)

    assert "000001.safetensors is missing; restore it" in refusal(STORAGE, "aggregator", begun)
    checkpoint.write_bytes((state / CHECKPOINTS / "000000.safetensors").read_bytes()[:-1])
    before = contents(state / CHECKPOINTS)
    for command in (["aggregator", begun], ["export", state]):
        assert "000001.safetensors is damaged" in refusal(STORAGE, *command)
    assert contents(state / CHECKPOINTS) == before


@needs_mosquitto
@pytest.mark.parametrize("damage", [b"not a database, but long enough to be taken for one" * 100, b"short"])
def test_a_book_that_is_damaged(begun: Path, site: Site, damage: bytes) -> None:
    book = site.path / "run" / BOOK
    for journal in book.parent.glob(f"{BOOK}-*"):
        journal.unlink()
    book.write_bytes(damage)

    assert refusal(STORAGE, "aggregator", begun).startswith("the book: file is not a database")
    assert book.read_bytes() == damage


def test_a_directory_without_a_run_cannot_be_exported(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal(STORAGE, "export", tmp_path)


def test_a_memory_that_is_damaged(nowhere: Site) -> None:
    config = nowhere.agent("pi-1")
    state = nowhere.path / "state-of-pi-1"
    state.mkdir()
    (state / "agent.json").write_text("{")

    assert "agent.json: " in refusal(STORAGE, "agent", "--config", config)
    assert (state / "agent.json").read_text() == "{"


def test_a_memory_that_is_another_agents(nowhere: Site) -> None:
    config = nowhere.agent("pi-1")
    state = nowhere.path / "state-of-pi-1"
    state.mkdir()
    (state / "agent.json").write_text('{"format": 7, "agent": "pi-7", "federation": "greenhouse"}')

    assert refusal(STORAGE, "agent", "--config", config) == (
        "this state directory belongs to agent pi-7 of federation greenhouse; name another with --state"
    )


def test_a_memory_of_another_version(nowhere: Site) -> None:
    config = nowhere.agent("pi-1")
    state = nowhere.path / "state-of-pi-1"
    state.mkdir()
    (state / "memory.json").write_text("{}")

    said = refusal(STORAGE, "agent", "--config", config)
    assert said.startswith("this state directory was written by another version of fedprune; ")


def test_a_file_where_a_directory_should_be(nowhere: Site) -> None:
    for config, command in (
        (nowhere.agent("pi-1", state="occupied"), ["agent", "--config"]),
        (nowhere.federation("occupied"), ["aggregator"]),
    ):
        (nowhere.path / "occupied").write_text("")
        assert "occupied: a file is where this directory should be" in refusal(STORAGE, *command, config)


@needs_mosquitto
@pytest.mark.parametrize("room", [1, 6, 20], ids=lambda room: f"{room} kB")
def test_a_full_disk_on_the_gateway(site: Site, room: int) -> None:
    config = site.federation("run")

    said = refusal(STORAGE, "aggregator", config, largest_file=room)

    assert re.search("File too large|full|disk I/O", said)
    assert "nothing is lost" in said
    assert not list((site.path / "run").rglob(".*.draft"))
    with Child("aggregator", config) as aggregator:
        aggregator.says("waiting for 2 agents")


@needs_mosquitto
def test_a_full_disk_on_a_device(site: Site) -> None:
    federation = site.federation("run", rounds={"cohort": 1, "count": 1})
    with Child("aggregator", federation) as aggregator:
        aggregator.says("waiting for 1 agents")
        said = refusal(STORAGE, "agent", "--config", site.agent("pi-1"), largest_file=2)
        aggregator.says("pi-1 cannot do round 1: ")
    assert "File too large; free space" in said
    assert [path.name for path in (site.path / "state-of-pi-1").iterdir()] == [".owner"]
