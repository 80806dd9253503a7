"""Structured pruning: filters, units, channels and heads that are removed from a network's description and weights.

What is removed is a *unit* with all that depends on it, its dependency group (Fang et al. 2023, "DepGraph: towards any
structural pruning", arXiv 2301.12900). `groups` finds them, `selection` chooses, `unit_masks` masks, `slim` removes.
"""
