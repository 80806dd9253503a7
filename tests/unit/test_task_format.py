"""The format of task.json has a number: who reads another says what to do, and no change goes without a new one."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from fedprune.errors import TaskOfOtherVersion
from fedprune.task.bundle import FORMAT_VERSION, Task, read_bundle
from tests.bundles import members_of, with_task


@pytest.mark.parametrize(
    ("version", "mend"), [(FORMAT_VERSION + 1, "upgrade it"), (2, "build the task again")], ids=["newer", "older"]
)
def test_a_task_of_another_format_says_what_to_do_whatever_else_is_in_it(version: int, mend: str) -> None:
    said = f"task bundle: format {version}, this fedprune reads {FORMAT_VERSION - 1} and {FORMAT_VERSION}; {mend}"

    with pytest.raises(TaskOfOtherVersion) as raised:
        read_bundle(with_task(lambda task: task.update(format_version=version, name=None, colour="red")))

    assert str(raised.value) == said


def as_it_was(task: dict[str, Any]) -> None:
    """A task.json of the format before."""
    task["format_version"] = FORMAT_VERSION - 1
    del task["training"]["logit_adjustment"]


def test_a_task_of_the_format_before_is_read_with_what_came_since_left_out() -> None:
    assert read_bundle(with_task(as_it_was)).task.training.logit_adjustment == 0.0


def test_a_task_that_is_written_again_is_of_this_format_whatever_it_was_read_from() -> None:
    """It has the keys that came since, so that who is older must be told to upgrade, and not of an unknown key."""
    written = members_of(read_bundle(with_task(as_it_was, seeded=False)).for_devices())["task.json"]

    task = msgspec.json.decode(written)
    assert (task["format_version"], task["training"]["logit_adjustment"]) == (FORMAT_VERSION, 0.0)


def test_whoever_changes_what_a_task_may_say_gives_it_a_new_number() -> None:
    """And then the digest that stands here."""
    schema = msgspec.json.encode(without_prose(msgspec.json.schema(Task)), order="sorted")

    assert (FORMAT_VERSION, hashlib.sha256(schema).hexdigest()[:16]) == (4, "6bff45af1674770b")


def without_prose(schema: Any) -> Any:
    """A schema without what people read alone."""
    if isinstance(schema, dict):
        return {key: without_prose(each) for key, each in schema.items() if key != "description"}
    return [without_prose(each) for each in schema] if isinstance(schema, list) else schema
