"""Federations of ordinary networks: either trainer learns the same; what they learn with 80 % pruned."""
