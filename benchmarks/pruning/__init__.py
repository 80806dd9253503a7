"""Dense models against those without half of their units, and those that are sparse besides: accuracy, bytes, time."""
