"""`python -m benchmarks.pruning [--quick] [--json FILE]`"""

from __future__ import annotations

if __name__ == "__main__":  # not where a child process imports this module to find its work: a device has no TensorFlow
    from benchmarks.pruning.command import main

    main()
