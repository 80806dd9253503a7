"""The agent's submits, said as briefly as the gateway understands them."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from fedprune.wire.messages import Manifest, Submit
from fedprune.wire.unsaid import Steady, brief_submit, run_context, steady


@dataclass(frozen=True)
class _Said:
    """An update that is submitted. `start` is the gateway's run and start to which all of its submits were said; None
    if they were said to several, or before this process began."""

    digest: bytes
    start: tuple[str, int] | None
    steady: Steady


class BriefSubmits:
    """Leaves out of a submit what the gateway knows: the run, where messages have codes, and what the last submit said
    that it accepted, unless another said something else since. A submit that is said again is whole: the gateway may
    not have understood it.

    `pending` is the update that a former process left.
    """

    def __init__(self, pending: Submit | None) -> None:
        self._said = None if pending is None else _Said(pending.content.digest, None, steady(pending))
        self._accepted: _Said | None = None

    def brief(self, submit: Submit, digest: bytes, manifest: Manifest | None, *, coded: bool) -> tuple[Submit, bytes]:
        """The submit of the update with this digest, as it is said after a manifest, and its code's context."""
        start = None if manifest is None else (manifest.run, manifest.incarnation)
        before, accepted, told = self._said, self._accepted, steady(submit)
        is_again = before is not None and before.digest == digest
        is_elsewhere = before is not None and before.start != start
        self._said = _Said(digest, None if is_again and is_elsewhere else start, told)
        if accepted is not None and accepted.steady != told:
            self._accepted = None
        if is_again or start is None:
            return submit, b""
        if accepted is not None and accepted.start == start:
            submit = brief_submit(submit, accepted.steady)
        if not coded or submit.run != start[0]:
            return submit, b""
        return msgspec.structs.replace(submit, run=""), run_context(start[0])

    def accept(self) -> None:
        """The gateway has accepted the update that was submitted."""
        self._accepted = self._said
