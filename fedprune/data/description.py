"""The description of a task's data: their form, and all that is done to them before a model takes them.

It is part of the task, so that every device, the gateway and the export do the same; where the data are is each
machine's own setting. It comes from a gateway: so everything in it has a bound. Readers are in modules of their own,
which a device imports only for its own form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from fedprune.data.array_values import MAX_CLASSES

MAX_COLUMNS = 2**12
"""Columns that are inputs; statistics of a normalisation."""

MAX_WINDOW = 2**20
"""Numbers of a window of rows."""

MAX_SIDE = 2**12
"""Pixels of a side of what a model takes."""

MAX_SAMPLES = 2**22
"""Samples of a recording: 4 minutes at 16 kHz."""

MAX_SPECTRUM = 2**22
"""Frames, or mel bands, times the length of a Fourier transform: 32 MB in float64."""

MAX_LENGTH = 2**16
"""Tokens of an example."""

MAX_WORDS = 2**18
"""Words of a vocabulary; ids of a tokeniser."""

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_LabelNames = Annotated[tuple[_Name, ...], msgspec.Meta(max_length=MAX_CLASSES)]
_FolderNames = Annotated[tuple[_Name, ...], msgspec.Meta(min_length=1, max_length=MAX_CLASSES)]
_Columns = Annotated[tuple[_Name, ...], msgspec.Meta(min_length=1, max_length=MAX_COLUMNS)]
_Rows = Annotated[int, msgspec.Meta(ge=1, le=MAX_WINDOW)]
_Side = Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)]
_Milliseconds = Annotated[float, msgspec.Meta(gt=0, le=10_000)]
_Hertz = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
_Bands = Annotated[int, msgspec.Meta(ge=1, le=512)]

_Numbers = Annotated[
    tuple[Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)], ...], msgspec.Meta(max_length=MAX_COLUMNS)
]
_Deviations = Annotated[
    tuple[Annotated[float, msgspec.Meta(ge=1e-30, le=1e30)], ...], msgspec.Meta(max_length=MAX_COLUMNS)
]
_LEAST_SPREAD = 1e-30


_Statistics = Literal["given", "federated"]
"""Where statistics come from: the task, or the devices, which are asked for theirs before the first round."""


class Standard(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind", tag="standard"
):
    """(x - mean) / std: one of each for all of x, or for each column or channel, the last axis of x."""

    mean: _Numbers = ()
    std: _Deviations = ()
    statistics: _Statistics = "given"

    def __post_init__(self) -> None:
        _check_statistics(self.statistics, mean=self.mean, std=self.std)

    @property
    def lacks_statistics(self) -> bool:
        """True until the devices' statistics have been gathered."""
        return not self.mean


class MinMax(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind", tag="min-max"
):
    """(x - minimum) / (maximum - minimum): one of each for all of x, or for each column or channel, its last axis."""

    minimum: _Numbers = ()
    maximum: _Numbers = ()
    statistics: _Statistics = "given"

    def __post_init__(self) -> None:
        _check_statistics(self.statistics, minimum=self.minimum, maximum=self.maximum)
        if any(most - least < _LEAST_SPREAD for least, most in zip(self.minimum, self.maximum, strict=True)):
            raise ValueError("each maximum must be above its minimum; leave out columns that are constant")

    @property
    def lacks_statistics(self) -> bool:
        """True until the devices' statistics have been gathered."""
        return not self.minimum


Normalization = Standard | MinMax


class Arrays(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="form", tag="arrays"):
    """Examples that somebody has made already, as arrays x and y. x of uint8 is divided by 255."""

    normalize: Normalization | None = None
    targets: Normalization | None = None
    """The normalisation of labels that are numbers; so it is in the other forms that have it."""
    hold_out_by: Literal["time", "group"] | None = None
    """See `fedprune.data.hold_out`; so it is in the other forms that have it."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="form", tag="table"):
    """Rows of CSV files: a row is an example, x is the numbers of the columns `inputs`, in that order.

    The column `label` holds names of classes, the `labels`; without these, numbers.
    """

    inputs: _Columns
    label: _Name
    labels: _LabelNames = ()
    normalize: Normalization | None = None
    targets: Normalization | None = None
    hold_out_by: Literal["time"] | None = None

    def __post_init__(self) -> None:
        _check_unique("inputs", (*self.inputs, self.label))
        _check_unique("labels", self.labels)
        _check_targets(self.targets, self.labels)

    @property
    def example_shape(self) -> tuple[int, ...]:
        return (len(self.inputs),)


class Series(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="form", tag="series"):
    """Windows over rows of CSV files, one row for each point in time: the next begins `stride` rows later.

    A window lies in one file, in one group (rows with equal cells in the column `group`, which others may come
    between), and in one class. It ends before a row that cannot be used, since time would jump there. Where labels are
    numbers, its label is the last row's.
    """

    inputs: _Columns
    label: _Name
    window: _Rows
    stride: _Rows
    group: _Name | None = None
    labels: _LabelNames = ()
    normalize: Normalization | None = None
    targets: Normalization | None = None
    hold_out_by: Literal["time", "group"] | None = None

    def __post_init__(self) -> None:
        _check_unique("inputs", (*self.inputs, self.label))
        _check_unique("labels", self.labels)
        _check_targets(self.targets, self.labels)
        if self.window * len(self.inputs) > MAX_WINDOW:
            raise ValueError(f"a window of {self.window} rows has more than {MAX_WINDOW} numbers; shorten it")

    @property
    def example_shape(self) -> tuple[int, ...]:
        return (self.window, len(self.inputs))


class Images(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="form", tag="images"):
    """Pictures, each an example of the class that its folder is named after.

    A picture is turned as its EXIF says, taken as grey (1 channel) or RGB (3), and brought to `size`, height and width,
    by bilinear interpolation with antialiasing. `resize` stretches it; `crop` first cuts out the middle that has the
    right proportions. x is 0 to 1.
    """

    size: tuple[_Side, _Side]
    labels: _FolderNames
    channels: Literal[1, 3] = 3
    fit: Literal["resize", "crop"] = "resize"
    normalize: Normalization | None = None

    def __post_init__(self) -> None:
        _check_unique("labels", self.labels)

    @property
    def example_shape(self) -> tuple[int, ...]:
        return (*self.size, self.channels)


class _Frames(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """Frames of `window_ms`, the next one `stride_ms` later, of which each has `bands` mel bands from `low_hz` to
    `high_hz`."""

    window_ms: _Milliseconds = 40.0
    stride_ms: _Milliseconds = 20.0
    bands: _Bands = 40
    low_hz: _Hertz = 20.0
    high_hz: _Hertz = 4000.0

    def __post_init__(self) -> None:
        if self.high_hz - self.low_hz < 1.0:
            raise ValueError(f"high_hz {self.high_hz:g} must be above low_hz {self.low_hz:g}, by 1 at least")

    @property
    def values(self) -> int:
        """The numbers that a frame becomes."""
        return self.bands

    def lengths(self, rate_hz: int) -> tuple[int, int]:
        """A frame's samples, and those from one frame to the next."""
        return max(2, round(rate_hz * self.window_ms / 1000)), max(1, round(rate_hz * self.stride_ms / 1000))

    def fft_length(self, rate_hz: int) -> int:
        """The smallest power of two that holds a frame."""
        return 1 << (self.lengths(rate_hz)[0] - 1).bit_length()


class LogMel(_Frames, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="log-mel"):
    """Logarithms of the magnitudes in triangular filters, spaced on HTK's mel scale, of frames under a Hann window."""


class Mfcc(_Frames, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="mfcc"):
    """The first `coefficients` of the cosine transform (DCT-II) of what `LogMel` gives."""

    coefficients: _Bands = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coefficients > self.bands:
            raise ValueError(f"{self.coefficients} coefficients need as many bands, there are {self.bands}")

    @property
    def values(self) -> int:
        return self.coefficients


class Waveform(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="waveform"):
    """The samples themselves, -1 to 1."""


FrontEnd = LogMel | Mfcc | Waveform


class Recordings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="form", tag="recordings"):
    """WAV files, each an example of the class that its folder is named after.

    It must have `rate_hz` samples a second. The first `seconds` of it are taken, and silence for what it lacks.
    """

    labels: _FolderNames
    rate_hz: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 16_000
    seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 1.0
    front_end: FrontEnd = LogMel()
    normalize: Normalization | None = None

    def __post_init__(self) -> None:
        _check_unique("labels", self.labels)
        if self.samples > MAX_SAMPLES:
            raise ValueError(f"{self.samples} samples, at most {MAX_SAMPLES} are taken; shorten seconds")
        if min(self.example_shape) < 1:
            raise ValueError(f"{self.seconds:g} seconds are shorter than a frame of the front-end; lengthen them")
        if not isinstance(self.front_end, Waveform):
            self._check_spectrum(self.front_end)

    @property
    def samples(self) -> int:
        return round(self.seconds * self.rate_hz)

    @property
    def example_shape(self) -> tuple[int, ...]:
        if isinstance(self.front_end, Waveform):
            return (self.samples, 1)
        window, stride = self.front_end.lengths(self.rate_hz)
        return (max(0, 1 + (self.samples - window) // stride), self.front_end.values, 1)

    def _check_spectrum(self, front_end: LogMel | Mfcc) -> None:
        length = front_end.fft_length(self.rate_hz)
        if front_end.high_hz > self.rate_hz / 2:
            raise ValueError(f"high_hz {front_end.high_hz:g} is above half of rate_hz, {self.rate_hz / 2:g}; lower it")
        if self.example_shape[0] * length > MAX_SPECTRUM:
            raise ValueError(f"{self.example_shape[0]} frames are too many; lengthen stride_ms or shorten seconds")
        if front_end.bands * length > MAX_SPECTRUM:
            raise ValueError(f"{front_end.bands} bands of so long a window are too many; take fewer")


class HashedWords(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="hashed-words"):
    """A word's id is 1 + CRC-32 of its UTF-8 bytes modulo `ids` - 1: no vocabulary, and some words share an id."""

    ids: Annotated[int, msgspec.Meta(ge=2, le=MAX_WORDS)] = 4096


class Bytes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="bytes"):
    """An id is 1 + a byte of the text in UTF-8, as it is written."""

    @property
    def ids(self) -> int:
        return 257


class Vocabulary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="vocabulary"):
    """A word's id is 2 + its place among `words`; 1 is that of all others.

    In task.toml the words may stand in a `file` of their own, one a line; a task's bundle holds them.
    """

    words: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=MAX_WORDS)] = ()
    file: str | None = None

    def __post_init__(self) -> None:
        if bool(self.words) == (self.file is not None):
            raise ValueError('give either words, or file = "words.txt" with one a line')
        if len(set(self.words)) < len(self.words):
            raise ValueError("a word stands twice in the vocabulary; each word stands once")

    @property
    def ids(self) -> int:
        return 2 + len(self.words)


Tokenizer = HashedWords | Bytes | Vocabulary


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="form", tag="text"):
    """Rows of CSV files, or lines of JSONL files: x is the ids of the first `length` tokens of what `text` holds.

    The column or field `label` holds names of classes, the `labels`; without these, numbers.
    """

    text: _Name
    label: _Name
    length: Annotated[int, msgspec.Meta(ge=1, le=MAX_LENGTH)]
    tokenizer: Tokenizer
    labels: _LabelNames = ()
    targets: Normalization | None = None

    def __post_init__(self) -> None:
        _check_unique("labels", self.labels)
        _check_targets(self.targets, self.labels)

    @property
    def example_shape(self) -> tuple[int, ...]:
        return (self.length,)

    @property
    def lacks_words(self) -> bool:
        """True for a description that is no task's yet, since the words of its vocabulary are in a file."""
        return isinstance(self.tokenizer, Vocabulary) and not self.tokenizer.words


Data = Arrays | Table | Series | Images | Recordings | Text
"""The ``[data]`` table of task.toml, by its ``form``."""


def hold_out_by(data: Data) -> Literal["time", "group"] | None:
    """What an agent holds out, where the task says so."""
    return data.hold_out_by if isinstance(data, Arrays | Table | Series) else None


def _check_unique(key: str, names: Sequence[str]) -> None:
    """Raise ValueError, which names the key, if a name stands twice."""
    if len(set(names)) < len(names):
        twice, _ = Counter(names).most_common(1)[0]
        raise ValueError(f"data.{key} names {twice!r} twice; each name stands once")


def _check_targets(targets: Normalization | None, labels: Sequence[str]) -> None:
    """Raise ValueError where labels are to be normalised that are classes."""
    if targets is not None and labels:
        raise ValueError("data.targets normalises labels that are numbers, data.labels names classes; leave one out")


def _check_statistics(statistics: _Statistics, **numbers: Sequence[float]) -> None:
    """Raise ValueError unless statistics are given, as many of each, or left to the devices."""
    (first, many), (second, as_many) = numbers.items()
    if statistics == "federated" and (many or as_many):
        raise ValueError(f'statistics = "federated" gathers {first} and {second} of the devices; leave both out')
    if statistics == "given" and not (many or as_many):
        raise ValueError(f'give {first} and {second}, or let devices do it: statistics = "federated"')
    if len(many) != len(as_many):
        raise ValueError(f"{first} has {len(many)} numbers and {second} {len(as_many)}; give as many of each")
