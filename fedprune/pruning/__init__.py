"""Masks, schedules and mask policies: the weights that are pruned, when, and by whom."""
