"""A task may name a function of its owner's own that makes the model; what goes wrong in it is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from export.describing.model import describe
from export.model_code import load_model, load_only_model
from fedprune.errors import TaskError

MAKE = """\
import {keras} as keras
from sizes import UNITS

def make():
    layers = keras.layers
    return keras.Sequential([layers.Input((4,)), layers.Dense(UNITS, "relu"), layers.Dense(3)])
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "sizes.py").write_text("UNITS = 5\n")
    return tmp_path


@pytest.mark.parametrize("library", ["tf_keras", "keras", "tensorflow.keras"])
def test_a_function_beside_the_task_makes_the_model(base: Path, library: str) -> None:
    """Whichever Keras it likes; what it imports may lie beside it."""
    (base / "net.py").write_text(MAKE.format(keras=library))
    network, table = describe(load_model("net.py:make", base))

    assert [spec.shape for spec in table] == [(4, 5), (5,), (5, 3), (3,)]
    assert len(network.layers) == 3


def test_it_may_be_in_a_module(base: Path) -> None:
    package = base / "ours_only_here"
    package.mkdir()
    (package / "net.py").write_text(MAKE.format(keras="tf_keras"))
    assert load_model("ours_only_here.net:make", base).output_shape == (None, 3)


@pytest.mark.parametrize("end", ["", "\nmodel = make()\n"], ids=["function", "model"])
def test_a_script_whose_model_is_looked_for_runs_once(base: Path, end: str) -> None:
    ran = "from pathlib import Path\nwith Path(__file__).with_name('ran').open('a') as file: file.write('once')\n"
    (base / "net.py").write_text(ran + MAKE.format(keras="tf_keras") + end)
    names, model = load_only_model("net.py", base)
    assert names == ["model" if end else "make"]
    assert model.output_shape == (None, 3)
    assert (base / "ran").read_text() == "once"


def test_equal_code_makes_equal_descriptions(base: Path) -> None:
    (base / "net.py").write_text(MAKE.format(keras="tf_keras"))
    assert describe(load_model("net.py:make", base)) == describe(load_model("net.py:make", base))


@pytest.mark.parametrize(
    "made",
    [
        "tfmot.sparsity.keras.prune_low_magnitude(k.Sequential([L.Input((4,)), L.Dense(3, name='half')]))",
        "k.Sequential([L.Input((4,)), L.Dense(3, dtype='mixed_float16', name='half')])",
    ],
    ids=["wrapped", "mixed"],
)
def test_a_wrapped_model_is_stripped_and_mixed_precision_is_float32(base: Path, made: str) -> None:
    (base / "net.py").write_text(
        f"import tf_keras as k, tensorflow_model_optimization as tfmot\nL = k.layers\ndef make():\n    return {made}\n"
    )
    model = load_model("net.py:make", base)

    assert [spec.name for spec in describe(model)[1]] == ["half/kernel", "half/bias"]
    assert model.layers[-1].compute_dtype == "float32"


@pytest.mark.parametrize(
    ("code", "source", "said"),
    [
        ("", "net.py:make", "net.py has no function 'make'; model.file names one as file.py:function"),
        ("make = 3", "net.py:make", "no function 'make'"),
        ("", "other.py:make", "other.py: no such file"),
        ("", "no.such.module:make", "cannot be imported: ModuleNotFoundError: No module named 'no'"),
        ("import nothing_of_that_name", "net.py:make", r"cannot be imported: ModuleNotFound.*\(net.py, line 1\)"),
        ("def make(:", "net.py:make", "cannot be imported: SyntaxError"),
        ("raise SystemExit(3)", "net.py:make", "cannot be imported: SystemExit: 3"),
        ("def make():\n    return 1 / 0", "net.py:make", r"ZeroDivisionError: division by zero \(net.py, line 2\)"),
        ("def make(size):\n    return size", "net.py:make", "is called without arguments"),
        ("def make():\n    return 'model'", "net.py:make", "returned 'str', not a Keras model"),
        (
            "import tf_keras as k\ndef make():\n    return k.Sequential([k.layers.Dense(3)])",
            "net.py:make",
            "knows no input shape; begin it with an Input layer",
        ),
        (
            "import keras as k\nclass Mine(k.Model):\n    pass\ndef make():\n    return Mine()",
            "net.py:make",
            "^net.py:make: class 'Mine' is code of its own.*; build the model with Sequential or the functional API",
        ),
        (
            "import keras as k\nclass Odd(k.layers.Layer):\n    pass\n"
            "def make():\n    return k.Sequential([k.layers.Input((3,)), Odd()])",
            "net.py:make",
            "^net.py:make: ",
        ),
    ],
)
def test_what_goes_wrong_is_one_line(base: Path, code: str, source: str, said: str) -> None:
    (base / "net.py").write_text(code)
    with pytest.raises(TaskError, match=said) as caught:
        load_model(source, base)
    assert "\n" not in str(caught.value)


def test_the_error_of_a_model_with_code_of_its_own_names_it(base: Path) -> None:
    (base / "net.py").write_text(
        "import tf_keras as k\n"
        "class Odd(k.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return x\n"
        "def make() -> 'k.Model':\n"
        "    return k.Sequential([k.layers.Input((3,)), Odd(name='odd'), k.layers.Dense(2)])\n"
    )
    model: Any = load_model("net.py:make", base)
    with pytest.raises(TaskError, match=r"layer 'odd' \(Odd\): a layer of this kind is not supported"):
        describe(model)
