"""The description of a person's data, as their model takes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from export.scaffold.audio_front_end import hear, recordings_for
from export.scaffold.data_look import ArraysLook, Column, DataLook, FoldersLook, RowsLook
from export.scaffold.model_look import ModelLook
from export.scaffold.questions import Questions
from export.scaffold.targets import Targets, only_output, targets_of_classes, targets_of_column
from fedprune.data.description import (
    MAX_WORDS,
    Arrays,
    Bytes,
    Data,
    HashedWords,
    Images,
    Series,
    Table,
    Text,
    Vocabulary,
)
from fedprune.errors import ConfigurationError, DataError, TaskError
from fedprune.model.losses import Loss
from fedprune.system.paths import path_text

_USUAL_LABELS = ("label", "class", "target", "y")
_USUAL_GROUPS = ("person", "subject", "user", "participant", "device", "machine", "group", "session", "id")
_USUAL_TIMES = ("time", "timestamp", "seconds", "millis", "date", "index")
_NO_GROUP = "none"


@dataclass(frozen=True)
class Described:
    """What becomes of the data, without statistics, and the loss; None where only the arrays themselves tell it."""

    data: Data
    loss: Loss | None


def describe_data(path: Path, look: DataLook, model: ModelLook, questions: Questions) -> Described:
    """Raises `TaskError` where data and model do not fit; `Unanswered` for what cannot be known."""
    match look:
        case ArraysLook():
            return Described(Arrays(), None)
        case FoldersLook():
            return _folders(path, look, model, questions)
        case RowsLook():
            return _rows(path, look, model, questions)


def _folders(path: Path, look: FoldersLook, model: ModelLook, questions: Questions) -> Described:
    origin, output, shape = path_text(path), only_output(model), model.inputs[0]
    if odd := [name for name in look.folders if path_text(name) != name]:
        raise DataError(f"{origin}: the folder {path_text(odd[0])} has a name that is not text; give it another")
    targets = targets_of_classes(output, list(look.folders), origin)
    if look.of_recordings:
        recordings = recordings_for(shape, targets.labels, hear(look.folders, origin), questions)
        return Described(recordings, targets.loss)
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[-1] not in (1, 3)):
        raise TaskError(
            f"{origin} holds pictures, and the model takes {list(shape)}; let it take [height, width, 3], or 1 for grey"
        )
    height, width, channels = (*shape, 1)[:3]
    return Described(Images((height, width), targets.labels, 1 if channels == 1 else 3), targets.loss)


def _rows(path: Path, look: RowsLook, model: ModelLook, questions: Questions) -> Described:
    origin, output = path_text(path), only_output(model)
    if look.is_jsonl and model.vocabularies[0] is None:
        raise TaskError(
            f"{origin}: lines of JSON are read as text, and the model takes numbers; begin it with an Embedding, or "
            "save the numbers as a .csv file"
        )
    label = _label(look, model, questions)
    targets = targets_of_column(output, label, look.columns[label], questions, origin)
    if model.vocabularies[0] is not None:
        return Described(_text(origin, look, label, targets, model, questions), targets.loss)
    group = _group(look, label, model, questions)
    inputs = _inputs(origin, look, {label, group}, model, questions)
    if len(model.inputs[0]) == 1:
        return Described(Table(inputs, label, targets.labels), targets.loss)
    window = model.inputs[0][0]
    stride = _whole(questions, "stride", max(1, window // 2))
    return Described(Series(inputs, label, window, stride, group, targets.labels), targets.loss)


def _label(look: RowsLook, model: ModelLook, questions: Questions) -> str:
    """The column of labels: called so, or the only one with as many different texts as the model has classes."""
    names = list(look.columns)
    usual = [name for name in names if name.lower() in _USUAL_LABELS]
    classes = max(2, model.outputs[0].shape[-1])
    fitting = [
        name
        for name, column in look.columns.items()
        if not column.is_numeric and len(column.distinct) == classes and column.cells > classes
    ]
    for likely in (usual, fitting):
        if questions.given("label") is None and len(likely) == 1:
            return likely[0]
    return questions.ask("label", "which column holds the labels", names, usual=names[-1])


def _group(look: RowsLook, label: str, model: ModelLook, questions: Questions) -> str | None:
    """The column of whom a row is of, for windows."""
    if len(model.inputs[0]) == 1:
        if questions.given("group") is not None:
            raise ConfigurationError("--group: groups are for windows of rows, and the model takes single rows")
        return None
    others = {name: column for name, column in look.columns.items() if name != label}
    likely = [name for name, column in others.items() if name.lower() in _USUAL_GROUPS or not column.is_numeric]
    window = model.inputs[0][0]
    likely = [name for name in likely if 1 < len(others[name].distinct) <= others[name].cells // window]
    if questions.given("group") is None:
        if not likely:
            return None
        if len(likely) == 1:
            return likely[0]
        choices = [*likely, _NO_GROUP]
    else:
        choices = [*others, _NO_GROUP]
    answer = questions.ask("group", "which column tells people (or machines) apart", choices)
    return None if answer == _NO_GROUP else answer


def _inputs(
    origin: str, look: RowsLook, others: set[str | None], model: ModelLook, questions: Questions
) -> tuple[str, ...]:
    """The columns of numbers, in the order of the header; as many as the model takes."""
    shape = model.inputs[0]
    if len(shape) not in (1, 2):
        raise TaskError(
            f"{origin} holds rows of columns, and the model takes {list(shape)}; let it take [columns], or [rows, "
            "columns] for windows of rows"
        )
    wanted = shape[-1]
    numeric = [name for name, column in look.columns.items() if column.is_numeric and name not in others]
    signals = [name for name in numeric if name.lower() not in (*_USUAL_TIMES, *_USUAL_GROUPS)]
    for likely in (numeric, signals):
        if questions.given("inputs") is None and len(likely) == wanted:
            return tuple(likely)
    found = f"{len(numeric)} columns of numbers beside the label ({', '.join(numeric)[:200]})"
    if questions.given("inputs") is None and len(numeric) < wanted:
        raise TaskError(f"{origin} has {found}, and the model takes {wanted}; let it take {len(numeric)}{_odd(look)}")
    given = questions.ask("inputs", f"which {wanted} of {found} the model takes, separated by commas")
    names = tuple(filter(None, (name.strip() for name in given.split(","))))
    if unknown := [name for name in names if name not in look.columns]:
        raise ConfigurationError(f"--inputs: {origin} has no column {unknown[0]!r} ({', '.join(look.columns)[:200]})")
    if len(names) != wanted or len(set(names)) != wanted:
        raise ConfigurationError(f"--inputs names {len(names)} columns, and the model takes {wanted} different ones")
    return names


def _odd(look: RowsLook) -> str:
    """The columns that hold numbers in part, which a fault in the file may be the reason of."""
    odd = [name for name, column in look.columns.items() if column.numbers and not column.is_numeric]
    return f", or mend {', '.join(odd)[:80]}, which holds numbers only in part" if odd else ""


def _text(origin: str, look: RowsLook, label: str, targets: Targets, model: ModelLook, questions: Questions) -> Text:
    (length, *others), ids = model.inputs[0], model.vocabularies[0] or 0
    if others:
        raise TaskError(
            f"{origin} holds text, and the model takes ids of {list(model.inputs[0])}; let it take [length]"
        )
    texts = [name for name, column in look.columns.items() if name != label and not column.is_numeric]
    if questions.given("text") is None and len(texts) == 1:
        column = texts[0]
    else:
        choices = texts if questions.given("text") is None else [name for name in look.columns if name != label]
        column = questions.ask("text", "which column holds the text", choices, usual=_longest(look.columns, texts))
    return Text(column, label, length, _tokenizer(ids, questions), targets.labels)


def _longest(columns: dict[str, Column], names: list[str]) -> str | None:
    return max(names, key=lambda name: columns[name].longest, default=None)


def _tokenizer(ids: int, questions: Questions) -> HashedWords | Bytes | Vocabulary:
    """Words unless the model knows as many ids as there are bytes, or a file of words is given."""
    given = questions.given("tokenizer") or ("bytes" if ids == Bytes().ids else "hashed-words")
    if given == "bytes":
        return Bytes()
    if given != "hashed-words":
        return Vocabulary(file=given)
    if ids < 2:
        raise TaskError(f"the model's Embedding knows {ids} ids, too few for words; give it some thousands")
    return HashedWords(min(ids, MAX_WORDS))


def _whole(questions: Questions, option: str, usual: int) -> int:
    text = questions.given(option)
    if text is None:
        return usual
    if not text.isdecimal() or not int(text):
        raise ConfigurationError(f"--{option} {text!r}: give a whole number of rows, 1 or more")
    return int(text)
