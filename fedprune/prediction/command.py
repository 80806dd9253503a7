"""`fedprune predict`: what an exported model says of raw data, on the device that has them."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from fedprune.errors import DataError
from fedprune.prediction.model import Answer, Prediction, load_model
from fedprune.system.paths import path_text

_SHOWN = 8
"""Numbers of an answer that a line shows; JSON has all."""


@click.command()
@click.argument("model", metavar="MODEL.tflite", type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="What is to be answered: files of the task's form or a directory of them, or an .npz. Labels are not needed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print each prediction as a line of JSON.")
def predict(model: Path, data: Path, as_json: bool) -> None:
    """Answer raw data with an exported model: pictures, WAV, CSV, text, as the devices had them that it learned from.

    MODEL.tflite is a file of `fedprune export`, which says itself how data become its inputs and what its classes are
    called. What cannot be read is told on standard error, and the rest is answered.

    \b
      fedprune predict export/int8.tflite --data recordings
      fedprune predict export/fp32.tflite --data today.csv --json
    """
    loaded = load_model(model)
    answered = 0
    for prediction in loaded.predict(data):
        answered += not prediction.fault
        if as_json:
            click.echo(msgspec.json.encode(prediction).decode())
        if prediction.fault:
            click.echo(path_text(f"{prediction.place}: {prediction.fault}"), err=True)
        elif not as_json:
            click.echo(path_text(_line(prediction)))
    if not answered:
        raise DataError(f"{path_text(data)}: nothing in it could be answered; name examples of the task's form")


def _line(prediction: Prediction) -> str:
    """The place and the answers; which output gave one is told where there are several."""
    has_several = len(prediction.answers) > 1
    return f"{prediction.place}: {', '.join(_words(answer, named=has_several) for answer in prediction.answers)}"


def _words(answer: Answer, *, named: bool) -> str:
    head = f"{answer.output} " if named and answer.output else ""
    if answer.label is not None:
        return f"{head}{answer.label} ({answer.probability:.3f})"
    numbers = _flat(answer.values)
    more = ", ..." if len(numbers) > _SHOWN else ""
    return f"{head}{', '.join(f'{number:.6g}' for number in numbers[:_SHOWN])}{more}"


def _flat(values: object) -> list[float]:
    if isinstance(values, list):
        return [number for value in values for number in _flat(value)]
    assert isinstance(values, float)
    return [values]
