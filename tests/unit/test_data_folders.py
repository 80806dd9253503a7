"""Pictures and recordings in folders by class, made here: what is read of them, and what is skipped."""

from __future__ import annotations

import io
import os
import re
import struct
import wave
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fedprune.data import folders as folders_module
from fedprune.data import load_examples, most_examples
from fedprune.data.description import Images, LogMel, Mfcc, Recordings, Waveform
from fedprune.errors import DataError

_IMAGES = Images(size=(4, 6), labels=("cat", "dog"))
_WAVES = Recordings(labels=("no", "yes"), rate_hz=8000, seconds=0.001, front_end=Waveform())


def _picture(
    path: Path, color: tuple[int, ...] | int = (255, 0, 51), size: tuple[int, int] = (6, 4), **save: object
) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB" if isinstance(color, tuple) else "L", size, color).save(path, **save)  # type: ignore[arg-type]
    return path


def _recording(path: Path, blob: bytes, *, width: int = 2, channels: int = 1, rate: int = 8000) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(blob)
    return path


def test_a_picture_has_the_class_of_its_folder_and_pixels_from_0_to_1(tmp_path: Path) -> None:
    _picture(tmp_path / "dog" / "b.png")
    _picture(tmp_path / "cat" / "a.png", 102)
    data = load_examples(tmp_path, _IMAGES)
    assert data.x.shape == (2, 4, 6, 3)
    assert data.x.dtype == np.float32
    assert data.y.tolist() == [0, 1]
    np.testing.assert_array_equal(data.x[0], np.full((4, 6, 3), 102 / 255, np.float32))
    np.testing.assert_array_equal(data.x[1, 0, 0], np.float32([1, 0, 51 / 255]))
    assert most_examples(tmp_path) == 2


@pytest.mark.parametrize("fit", ["resize", "crop"])
def test_crop_keeps_the_middle_and_resize_keeps_all(tmp_path: Path, fit: str) -> None:
    pixels = np.zeros((8, 24), np.uint8)
    pixels[:, 8:16] = 255  # the middle third is white
    (tmp_path / "cat").mkdir()
    Image.fromarray(pixels).save(tmp_path / "cat" / "a.png")
    x = load_examples(tmp_path, Images(size=(8, 8), labels=("cat",), channels=1, fit=fit)).x  # type: ignore[arg-type]
    assert x.shape == (1, 8, 8, 1)
    assert (x.min() == 1.0) == (fit == "crop")


def test_a_photo_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # turn it by 90 degrees to show it
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 4:] = 255  # the right half is white: the lower one, turned
    (tmp_path / "cat").mkdir()
    Image.fromarray(pixels).save(tmp_path / "cat" / "a.png", exif=turned)
    x = load_examples(tmp_path, Images(size=(8, 4), labels=("cat",), channels=1)).x[0, :, :, 0]
    assert x[:4].max() == 0.0
    assert x[4:].min() == 1.0


def test_a_large_photo_comes_out_as_a_small_copy_of_it(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    rows, columns = np.mgrid[0:1200, 0:1600]
    gradient = np.stack((columns / 1600, rows / 1200, np.full((1200, 1600), 0.5)), axis=2)
    Image.fromarray((gradient * 255).astype(np.uint8)).save(tmp_path / "cat" / "a.jpg", quality=95)
    x = load_examples(tmp_path, Images(size=(30, 40), labels=("cat",))).x[0]
    np.testing.assert_allclose(x, gradient.reshape(30, 40, 40, 40, 3).mean(axis=(1, 3)), atol=0.05)


def _bomb(width: int, height: int) -> bytes:
    """A PNG of some bytes whose header tells so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(2**16))) + chunk(b"IEND", b"")


def _wide() -> bytes:
    blob = io.BytesIO()
    Image.fromarray(np.full((4, 6), 40_000, np.uint16)).save(blob, "PNG")
    return blob.getvalue()


@pytest.mark.parametrize(
    ("name", "blob", "said"),
    [
        ("notes.txt", b"no picture", "1 files that cannot be read skipped, the first is dog/notes.txt: not a picture"),
        ("empty.png", b"", "1 files that cannot be read skipped, the first is dog/empty.png: not a picture"),
        ("bomb.png", _bomb(50_000, 50_000), "1 files that cannot be read skipped, the first is dog/bomb.png"),
        ("large.png", _bomb(10_000, 5_000), "1 files that are too large skipped, the first is dog/large.png"),
        ("long.png", _bomb(1, 2**25), "1 files that are too large skipped, the first is dog/long.png: 33554432 rows"),
        ("wide.png", _wide(), "pixels are not of 8 bits"),
        ("page.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    ],
)
def test_a_picture_that_cannot_be_used_is_named_counted_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, blob: bytes, said: str
) -> None:
    _picture(tmp_path / "cat" / "a.png")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / name).write_bytes(blob)
    assert load_examples(tmp_path, _IMAGES).y.tolist() == [0]
    (line,) = caplog.messages
    assert said in line


def test_a_picture_that_is_cut_off_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _picture(tmp_path / "cat" / "a.jpg", size=(300, 200))
    whole = _picture(tmp_path / "dog" / "b.jpg", size=(300, 200)).read_bytes()
    (tmp_path / "dog" / "b.jpg").write_bytes(whole[: len(whole) // 2])
    assert load_examples(tmp_path, _IMAGES).y.tolist() == [0]
    assert "dog/b.jpg: not a picture that can be read" in caplog.text


def test_a_folder_that_the_task_does_not_know_is_named_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in ("cat", "horse", ".thumbnails"):
        _picture(tmp_path / folder / "a.png")
    assert len(load_examples(tmp_path, _IMAGES)) == 1
    (line,) = caplog.messages
    assert "1 folders with a label that the task does not know skipped, the first is horse" in line
    assert "(cat, dog)" in line


@pytest.mark.parametrize("form", [_IMAGES, _WAVES])
def test_folders_without_anything_are_refused(tmp_path: Path, form: Images | Recordings) -> None:
    with pytest.raises(DataError, match="it holds no folder; put the files into a folder for each class"):
        load_examples(tmp_path, form)
    (tmp_path / form.labels[0]).mkdir()
    with pytest.raises(DataError, match="no example in it"):
        load_examples(tmp_path, form)
    with pytest.raises(DataError, match="it holds nothing"):
        most_examples(tmp_path)
    with pytest.raises(DataError, match="No such file or directory; name a directory with a folder for each class"):
        load_examples(tmp_path / "none", form)


def test_a_table_beside_the_folders_does_not_hide_their_files(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        _picture(tmp_path / "cat" / name)
    (tmp_path / "notes.csv").write_text("name,who\n")
    assert most_examples(tmp_path) == 3 == len(load_examples(tmp_path, _IMAGES))


def test_a_pipe_among_the_files_is_not_waited_for(tmp_path: Path) -> None:
    _picture(tmp_path / "cat" / "a.png")
    os.mkfifo(tmp_path / "cat" / "b.png")
    assert len(load_examples(tmp_path, _IMAGES)) == 1


@pytest.mark.parametrize("form", [_IMAGES, _WAVES])
def test_a_file_that_is_too_large_is_not_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, form: Images | Recordings
) -> None:
    monkeypatch.setattr(folders_module, "MAX_FILE_BYTES", 100)
    (tmp_path / form.labels[0]).mkdir()
    (tmp_path / form.labels[0] / "a").write_bytes(bytes(101))
    with pytest.raises(DataError, match="no example is left: 1 files that are too large"):
        load_examples(tmp_path, form)
    assert "101 bytes, at most 100 are read" in caplog.text


# Recordings


@pytest.mark.parametrize(
    ("width", "blob"),
    [
        (1, bytes([128, 192, 0])),
        (2, struct.pack("<3h", 0, 2**14, -(2**15))),
        (3, b"".join(struct.pack("<i", value)[:3] for value in (0, 2**22, -(2**23)))),
        (4, struct.pack("<3i", 0, 2**30, -(2**31))),
    ],
)
def test_samples_of_every_width_are_from_minus_1_to_1_and_silence_fills_up(
    tmp_path: Path, width: int, blob: bytes
) -> None:
    _recording(tmp_path / "yes" / "a.wav", blob, width=width)
    data = load_examples(tmp_path, _WAVES)
    assert data.x[0, :, 0].tolist() == [0.0, 0.5, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert data.y.tolist() == [1]


def test_channels_are_averaged_and_what_is_too_long_is_cut(tmp_path: Path) -> None:
    _recording(tmp_path / "no" / "a.wav", struct.pack("<40h", *([2**14, 0] * 20)), channels=2)
    assert load_examples(tmp_path, _WAVES).x.ravel().tolist() == [0.25] * 8


def test_a_front_end_makes_frames(tmp_path: Path) -> None:
    _recording(tmp_path / "no" / "a.wav", np.zeros(16_000, "<i2").tobytes(), rate=16_000)
    mel = load_examples(tmp_path, Recordings(labels=("no",), front_end=LogMel(bands=12))).x
    assert mel.shape == (1, 49, 12, 1)
    np.testing.assert_allclose(mel, np.log(1e-6), rtol=1e-5)
    assert load_examples(tmp_path, Recordings(labels=("no",), front_end=Mfcc())).x.shape == (1, 49, 10, 1)


def _header(frames: int, *, channels: int = 1, rate: int = 8000, bits: int = 16, tag: int = 1) -> bytes:
    """A WAV file's first bytes; what they promise need not follow."""
    size = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * size % 2**32, size % 2**16, bits)
    data = min(frames * size, 2**32 - 1)
    return (
        b"RIFF"
        + struct.pack("<I", 2**32 - 1)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", data)
    )


@pytest.mark.parametrize(
    ("blob", "said"),
    [
        (b"", "not a WAV file"),
        (b"RIFF", "not a WAV file"),
        (b"ID3" + bytes(400), "not a WAV file"),
        (_header(8), "it ends before its last sample"),
        (_header(0), "it ends before its last sample"),
        (_header(2**31) + bytes(6), "it ends before its last sample"),
        (_header(8, rate=44_100) + bytes(16), "recordings of another sample rate.*44100 samples a second"),
        (_header(8, channels=60_000) + bytes(99), "not a WAV file with PCM samples .60000 channels of 16 bits"),
        (_header(8, channels=0) + bytes(99), "not a WAV file"),
        (_header(8, bits=0) + bytes(99), "not a WAV file"),
        (_header(8, bits=64) + bytes(99), "not a WAV file"),
        (_header(8, tag=3, bits=32) + bytes(99), "not a WAV file with PCM samples"),
    ],
)
def test_a_recording_that_cannot_be_used_is_named_counted_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, blob: bytes, said: str
) -> None:
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "a.wav").write_bytes(blob)
    with pytest.raises(DataError, match="no example is left: 1 "):
        load_examples(tmp_path, _WAVES)
    assert re.search(said, caplog.text)


def test_good_recordings_remain(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _recording(tmp_path / "no" / "a.wav", bytes(16))
    _recording(tmp_path / "no" / "b.wav", bytes(16), rate=16_000)
    assert len(load_examples(tmp_path, _WAVES)) == 1
    assert "1 recordings of another sample rate skipped, the first is no/b.wav: 16000 samples a second" in caplog.text


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 59), st.binary(min_size=1, max_size=8))
def test_no_recording_raises_anything_but_data_errors(tmp_path: Path, place: int, change: bytes) -> None:
    blob = _header(8) + bytes(16)
    (tmp_path / "no").mkdir(exist_ok=True)
    (tmp_path / "no" / "a.wav").write_bytes(blob[:place] + change + blob[place + len(change) :])
    try:
        assert np.isfinite(load_examples(tmp_path, _WAVES).x).all()
    except DataError:
        return
