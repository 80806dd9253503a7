"""The choice of a device's trainer. Nothing is imported that is not taken.

``auto`` is keras where TensorFlow is installed and the device has the memory that it takes; else litert. A task without
a training graph, and one whose graph the device's runtime cannot run or computes wrongly, can only be trained by keras.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING, Literal

from edge_agent.trainers import AnsweringTrainer
from fedprune.errors import ConfigurationError
from fedprune.runtime.tflite import how_to_get_runtime, is_runtime_installed
from fedprune.system.disk import Disk
from fedprune.system.usage import device_memory_mb

if TYPE_CHECKING:
    from edge_agent.trainers.slimming import Slimmable
    from fedprune.task.bundle import Bundle

_log = logging.getLogger(__name__)

TrainerName = Literal["keras", "litert"]
TrainerChoice = Literal["auto", "keras", "litert"]

_ENOUGH_MEMORY_MB = 1500.0
"""TensorFlow takes about 700 MB, which leaves nothing of 1 GB to the system and whatever else the device is for."""


def preferred_trainer(choice: TrainerChoice) -> TrainerName:
    """The trainer that this device takes if the task allows it.

    Raises `ConfigurationError` if it is not installed, saying what to install.
    """
    name = _automatic() if choice == "auto" else choice
    if not _is_installed(name):
        raise ConfigurationError(f"trainer {choice}: {_why_missing(name)}")
    return name


def make_trainer(
    choice: TrainerChoice, bundle: Bundle, *, examples: int, threads: int, disk: Disk | None = None
) -> AnsweringTrainer:
    """The trainer for a task and a device with so many examples. `disk` remembers which runtime was checked.

    Raises `ConfigurationError` if it is not installed, `TaskError` if it cannot train the task, `StorageError` if the
    disk refuses.
    """
    trainer = _make_whole(choice, bundle, examples=examples, threads=threads, disk=disk)
    if not bundle.forms.can_change:
        return trainer
    from edge_agent.trainers.slimming import SlimmingTrainer

    return SlimmingTrainer(trainer, bundle.forms.whole)


def _make_whole(choice: TrainerChoice, bundle: Bundle, *, examples: int, threads: int, disk: Disk | None) -> Slimmable:
    """The trainer of the network as it was built."""
    name = preferred_trainer(choice)
    if choice == "auto" and not bundle.graphs and _is_installed("keras"):
        name = "keras"
    if name == "litert":
        from edge_agent.trainers.litert import LiteRTTrainer
        from fedprune.runtime.self_check import RuntimeUnfit

        try:
            return LiteRTTrainer(bundle, examples=examples, threads=threads, disk=disk)
        except RuntimeUnfit as error:
            if choice != "auto" or not _is_installed("keras"):
                raise
            _log.warning("taking the keras trainer: %s", error)
    from edge_agent.trainers.keras import KerasTrainer

    return KerasTrainer(bundle, threads=threads)


def _automatic() -> TrainerName:
    has_room = device_memory_mb() >= _ENOUGH_MEMORY_MB or not _is_installed("litert")
    return "keras" if _is_installed("keras") and has_room else "litert"


def _is_installed(name: TrainerName) -> bool:
    if name == "keras":
        return importlib.util.find_spec("tensorflow") is not None
    return is_runtime_installed()


def _why_missing(name: TrainerName) -> str:
    if name == "keras":
        return "TensorFlow is not installed; in fedprune's clone: pip install '.[keras]'"
    return f"no LiteRT runtime is installed: {how_to_get_runtime()}"
