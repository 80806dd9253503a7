"""The codecs of updates and of models' deltas, their speed and their bytes."""
