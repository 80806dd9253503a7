"""`python -m benchmarks.federations [--only NAME,…] [--seeds 1,2,…] [--json FILE]`"""

from __future__ import annotations

from benchmarks.federations.command import main

if __name__ == "__main__":  # not where a child process imports this module to find its work
    main()
