"""The cost of a round for fleets of any size: real connections, real messages, real updates."""
