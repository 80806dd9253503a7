"""The patience of tests with what has to come."""

PATIENCE_S = 600.0
"""After this a test gives up, and fails; none that passes waits so long. Some devices are emulated, some lines are of
minutes of silence, and a machine may be busy with all of that at once."""
