"""Tasks, which a federation learns, and what a run leaves behind."""
