"""`python -m benchmarks.zoo [--json FILE] [--only NAMES] [--quick]`"""

from __future__ import annotations

from benchmarks.zoo.command import main

main()
