"""`fedprune rollback`: a run goes back to an earlier model."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from aggregator.rollback import Rollback, roll_back_directory
from fedprune.model.metrics import metrics_shown
from fedprune.system.output import say


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--to",
    type=click.IntRange(min=0),
    metavar="ROUNDS",
    help="The model after so many rounds; 0 is the initial one.  [default: the last good one before the present]",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def rollback(run: Path, to: int | None, as_json: bool) -> None:
    """Take a run back to an earlier model, when something went wrong in its last rounds.

    RUN is an aggregator's state directory; the aggregator must not be running. The rounds after that model are undone:
    their records, updates and checkpoints are deleted. Only models that were kept can be gone back to: the last ones
    and the best one (`keep_checkpoints` in federation.toml). Started again, the aggregator repeats the rounds, and
    agents begin them without what they remember of those that are undone. An agent whose updates did the harm will do
    it again: stop it first.

    \b
      fedprune rollback run-1             # to the last model before the present one whose held-out loss is sane
      fedprune rollback run-1 --to 12     # to the model after round 12
    """
    done = roll_back_directory(run, to)
    say(msgspec.json.encode(done).decode() if as_json else _line(done))


def _line(done: Rollback) -> str:
    scores = metrics_shown(done.metrics)
    scores += [f"loss {done.loss:.4g}"] if done.loss is not None else []
    which = f"the model after {done.rounds} rounds" if done.rounds else "the initial model"
    updates = f", {done.discarded} updates of an open round discarded" if done.discarded else ""
    return f"back to {which}{' (' + ', '.join(scores) + ')' if scores else ''}; {done.undone} rounds undone{updates}"
