"""The watch over a worker that was asked for something: does it get on, or does it hang?

Wall time alone would end workers that get no processor on a busy machine. So a worker hangs where it could run and does
not (it is stopped, or waits for what never comes), or where it runs for far longer than any answer takes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fedprune.system.usage import Activity

SILENT_S = 60.0
"""Seconds in which a worker that does not wait for a processor has to have used some."""

MOST_PROCESSOR_S = 60.0
"""Seconds of processor that an answer takes at most, for each update that it is about: one of 100 million parameters
takes 2."""

LOOKS = 8
"""Times that a worker is looked at in `SILENT_S`."""


@dataclass(frozen=True)
class Watch:
    """A worker that may use `allowed_s` seconds of processor in all, had used `used_s` at `moved_at`, and was seen to
    move last then."""

    allowed_s: float
    used_s: float
    moved_at: float

    @classmethod
    def begin(cls, activity: Activity, updates: int, now: float) -> Watch:
        """Over a worker that is asked about so many updates, and did so much before. `now` is monotonic seconds."""
        return cls(activity.processor_s + MOST_PROCESSOR_S * max(1, updates), activity.processor_s, now)

    def seen(self, activity: Activity, now: float) -> Watch:
        """The watch after a look at the process."""
        if activity.processor_s <= self.used_s and not activity.waits_for_processor:
            return self
        return replace(self, used_s=activity.processor_s, moved_at=now)

    def why_it_hangs(self, now: float) -> str:
        """In words; empty for a worker that gets on.

        >>> stopped = Activity(processor_s=2.0, waits_for_processor=False)
        >>> Watch.begin(stopped, updates=1, now=0.0).seen(stopped, 90.0).why_it_hangs(90.0)
        'it has done nothing for 90 s'
        """
        if self.used_s > self.allowed_s:
            return f"it computes for more than {MOST_PROCESSOR_S:.0f} s an update"
        return f"it has done nothing for {now - self.moved_at:.0f} s" if now - self.moved_at >= SILENT_S else ""
