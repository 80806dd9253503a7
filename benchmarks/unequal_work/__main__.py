"""`python -m benchmarks.unequal_work`: see `benchmarks.unequal_work.command`."""

from __future__ import annotations

from benchmarks.unequal_work.command import main

if __name__ == "__main__":
    main()
