"""The enrolment endpoint under damaged requests. `python -m benchmarks.enrolment_fuzz` sends 100,000."""

from __future__ import annotations

import pytest

from benchmarks.enrolment_fuzz import REFUSALS, fuzz


def test_damaged_requests_are_refused_in_our_own_words_and_leave_the_endpoint_as_it_was(
    capfd: pytest.CaptureFixture[str],
) -> None:
    fuzzed = fuzz(2000, seed=20261126)
    assert fuzzed.answers.keys() <= REFUSALS | {"200"}, fuzzed.answers
    assert fuzzed.answers["200"] < 500, "that is the authority's certificate, which is public"
    assert fuzzed.answers["400"] > 1000, "nearly all are answered"
    assert not fuzzed.taken
    assert fuzzed.still_serves
    assert "Traceback" not in capfd.readouterr().err
