"""Pruning schedules: which sparsity is due at which global step.

`PolynomialDecay` and `ConstantSparsity` are those of TensorFlow Model Optimization 0.8.1, in its float32 arithmetic, so
that the gateway and a device that prunes with TF-MOT agree on how many weights are kept. All schedules round to float32
what they compute in float64: C libraries differ in the last digits of powers and cosines, and masks must not.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

STEP_LIMIT = 2**31
"""Steps are counted below this."""

SPARSITY_TOLERANCE = 0.005
"""A sparsity that misses its target by less is not worth a word: both are shown with two digits."""


class _PruningWindow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """The steps at which masks are updated: every `frequency` steps from `begin_step` to `end_step`, both included.

    Steps count optimizer steps on the task's global clock; as in TF-MOT the first one is step 1. A negative
    `end_step` means without end.
    """

    begin_step: int
    end_step: int
    frequency: int

    def __post_init__(self) -> None:
        if self.begin_step < 0:
            raise ValueError(f"begin_step is {self.begin_step}; it must be at least 0")
        if self.frequency < 1:
            raise ValueError(f"frequency is {self.frequency}; it must be at least 1")
        if max(self.begin_step, self.end_step, self.frequency) >= STEP_LIMIT:
            raise ValueError("begin_step, end_step and frequency must be below 2^31")

    def is_due(self, step: int) -> bool:
        """True if the mask is updated at the global optimizer step `step`, of which the first is 1."""
        return self.last_due(step) == step

    def last_due(self, step: int) -> int | None:
        """Find the last update of the mask.

        Args:
            step: a global optimizer step, at least 0.

        Returns:
            The latest step up to and including `step` at which the mask is updated; None before `begin_step`.
        """
        if step < self.begin_step:
            return None
        last = step if self.end_step < 0 else min(step, self.end_step)
        return last - (last - self.begin_step) % self.frequency

    def is_due_within(self, after: int, until: int) -> bool:
        """True if the mask is updated at one of the global steps after `after`, up to and including `until`."""
        last = self.last_due(until)
        return last is not None and last > after

    def sparsity_at(self, step: int) -> float:
        """The fraction of weights that a mask update at the global step `step` prunes, in [0, 1)."""
        raise NotImplementedError

    def sparsity_in_force(self, step: int) -> float:
        """The sparsity of the mask that the global step `step` trains with, in [0, 1).

        It is that of the last update due, 0.0 before the first one.
        """
        due = self.last_due(step)
        return 0.0 if due is None else self.sparsity_at(due)


class _Growth(_PruningWindow, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sparsity that grows from `initial_sparsity` at the first update to `target_sparsity` at `end_step`."""

    initial_sparsity: float
    target_sparsity: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_sparsity("initial_sparsity", self.initial_sparsity)
        _check_sparsity("target_sparsity", self.target_sparsity)
        if self.target_sparsity < self.initial_sparsity:
            raise ValueError(
                f"target_sparsity {self.target_sparsity} is below initial_sparsity {self.initial_sparsity}; "
                "a schedule never gives weights back"
            )
        _check_end(self.begin_step, self.end_step)

    def sparsity_at(self, step: int) -> float:
        progress = np.float32(step - self.begin_step) / np.float32(self.end_step - self.begin_step)
        decay = np.float32(self._decay(float(np.clip(progress, np.float32(0.0), np.float32(1.0)))))
        difference = np.float32(self.initial_sparsity - self.target_sparsity)
        return float(difference * decay + np.float32(self.target_sparsity))

    def _decay(self, progress: float) -> float:
        """The part of the growth that is still to come, from 1 at `progress` 0 to 0 at 1."""
        raise NotImplementedError


class PolynomialDecay(_Growth, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="polynomial"):
    """Sparsity that grows fast at first and levels off at its target.

    s(t) = s_f + (s_i - s_f) (1 - (t - begin) / (end - begin))^power, equation 1 of Zhu and Gupta 2017
    ("To prune, or not to prune", arXiv 1710.01878), there with power 3.

    Args:
        begin_step, end_step, frequency: when masks are updated, in global optimizer steps.
        initial_sparsity, target_sparsity: s_i and s_f, fractions in [0, 1).
        power: a positive number.

    Raises:
        ValueError: a setting is out of its range, or the target below the start.

    Example:
        >>> window = {"begin_step": 0, "end_step": 100, "frequency": 10}
        >>> schedule = PolynomialDecay(initial_sparsity=0.0, target_sparsity=0.8, **window)
        >>> [round(schedule.sparsity_in_force(step), 3) for step in (0, 50, 59, 100, 200)]
        [0.0, 0.7, 0.7, 0.8, 0.8]
    """

    power: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.power < float("inf"):
            raise ValueError(f"power is {self.power}; it must be a positive number")

    def _decay(self, progress: float) -> float:
        remaining = float(np.float32(1.0) - np.float32(progress))
        return math.pow(remaining, self.power)


class CosineSparsity(_Growth, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="cosine"):
    """Sparsity that grows along half a cosine: slowly at first and in the end, fastest in the middle.

    s(t) = s_f + (s_i - s_f) (1 + cos(pi (t - begin) / (end - begin))) / 2: the curve of Loshchilov and Hutter 2017
    (SGDR, arXiv 1608.03983), equation 5 without restarts.

    Args:
        begin_step, end_step, frequency: when masks are updated, in global optimizer steps.
        initial_sparsity, target_sparsity: s_i and s_f, fractions in [0, 1).

    Raises:
        ValueError: a setting is out of its range, or the target below the start.

    Example:
        >>> window = {"begin_step": 0, "end_step": 100, "frequency": 10}
        >>> schedule = CosineSparsity(initial_sparsity=0.0, target_sparsity=0.8, **window)
        >>> [round(schedule.sparsity_in_force(step), 3) for step in (0, 20, 50, 100, 200)]
        [0.0, 0.076, 0.4, 0.8, 0.8]
    """

    def _decay(self, progress: float) -> float:
        return (1.0 + math.cos(math.pi * progress)) / 2.0


class IterativeSparsity(_PruningWindow, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="iterative"):
    """Sparsity that grows in a few steps, each of which prunes the same fraction of what is left.

    After the k-th of n updates 1 - (1 - s_f)^(k / n): iterative pruning with training in between (Han et al. 2015,
    arXiv 1506.02626, section 3.3) at the rate of Frankle and Carbin 2019 (arXiv 1803.03635, section 1), and without
    their rewinding.

    Args:
        begin_step, end_step, frequency: when masks are updated, in global optimizer steps; n follows from them.
        target_sparsity: s_f, a fraction in [0, 1).

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> schedule = IterativeSparsity(target_sparsity=0.875, begin_step=10, end_step=30, frequency=10)
        >>> [schedule.sparsity_in_force(step) for step in (9, 10, 20, 30)]
        [0.0, 0.5, 0.75, 0.875]
    """

    target_sparsity: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_sparsity("target_sparsity", self.target_sparsity)
        _check_end(self.begin_step, self.end_step)

    def sparsity_at(self, step: int) -> float:
        updates = (self.end_step - self.begin_step) // self.frequency + 1
        made = min(max((step - self.begin_step) // self.frequency + 1, 0), updates)
        return float(np.float32(1.0 - (1.0 - self.target_sparsity) ** (made / updates)))


class ConstantSparsity(_PruningWindow, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="constant"):
    """The same sparsity from the first update on.

    Args:
        begin_step, end_step, frequency: when masks are updated, in global optimizer steps; -1 means without end.
        target_sparsity: a fraction in [0, 1).

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> schedule = ConstantSparsity(target_sparsity=0.5, begin_step=100, frequency=10)
        >>> [schedule.sparsity_in_force(step) for step in (99, 100)]
        [0.0, 0.5]
    """

    target_sparsity: float
    end_step: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_sparsity("target_sparsity", self.target_sparsity)
        if self.end_step != -1 and self.end_step < self.begin_step:
            raise ValueError(
                f"end_step is {self.end_step}; it must be -1 (no end) or at least begin_step {self.begin_step}"
            )

    def sparsity_at(self, step: int) -> float:  # noqa: ARG002 - the same at every step
        return float(np.float32(self.target_sparsity))


Schedule = PolynomialDecay | ConstantSparsity | CosineSparsity | IterativeSparsity


def final_sparsity(schedule: Schedule, steps: int) -> float:
    """The sparsity that a run ends with.

    Args:
        schedule: the task's.
        steps: the global steps of the whole run: rounds times steps a round.

    Returns:
        A fraction in [0, 1).

    Example:
        >>> schedule = ConstantSparsity(target_sparsity=0.5, begin_step=100, frequency=10)
        >>> final_sparsity(schedule, 99), final_sparsity(schedule, 100)
        (0.0, 0.5)
    """
    return schedule.sparsity_in_force(steps)


def steps_to_reach_target(schedule: Schedule) -> int | None:
    """The global steps after which the target is in force.

    Args:
        schedule: the task's.

    Returns:
        The fewest steps that a run needs to end with the schedule's target, or what misses it by less than
        `SPARSITY_TOLERANCE` and is never exceeded; None if no run does, because masks are updated too seldom.

    Example:
        >>> window = {"initial_sparsity": 0.0, "target_sparsity": 0.8, "begin_step": 10, "end_step": 50}
        >>> steps_to_reach_target(PolynomialDecay(frequency=20, **window))
        50
        >>> steps_to_reach_target(PolynomialDecay(frequency=100, **window)) is None
        True
    """
    if misses_target(schedule, schedule.sparsity_at(schedule.begin_step)):
        last = schedule.last_due(schedule.end_step)
        return None if last is None or misses_target(schedule, schedule.sparsity_at(last)) else last
    return schedule.begin_step


def misses_target(schedule: Schedule, sparsity: float) -> bool:
    """True if `sparsity`, a fraction, is below the schedule's target by `SPARSITY_TOLERANCE` or more.

    Example:
        >>> schedule = ConstantSparsity(target_sparsity=0.5, begin_step=100, frequency=10)
        >>> misses_target(schedule, 0.0), misses_target(schedule, 0.498)
        (True, False)
    """
    return sparsity <= schedule.target_sparsity - SPARSITY_TOLERANCE


def _check_sparsity(field: str, sparsity: float) -> None:
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(f"{field} is {sparsity}; it must be at least 0 and below 1")


def _check_end(begin_step: int, end_step: int) -> None:
    if end_step <= begin_step:
        raise ValueError(f"end_step is {end_step}; it must be greater than begin_step {begin_step}")
