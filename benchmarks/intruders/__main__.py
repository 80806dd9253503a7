"""`python -m benchmarks.intruders`"""

from benchmarks.intruders.command import main

if __name__ == "__main__":
    main()
