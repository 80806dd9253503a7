"""How many examples messages may tell of."""

from __future__ import annotations

from typing import Annotated

import msgspec

MOST_CHECKED_IN = 2**31 - 1
"""Of a check-in. Who has more says so many: a sub-gateway, whose updates nobody holds to what it said."""

MOST_SUBMITTED = 2**48
"""Of a submit: a sub-gateway's are those of its agents, 100,000 of whom may have 2^31 each."""

Submitted = Annotated[int, msgspec.Meta(ge=1, le=MOST_SUBMITTED)]
