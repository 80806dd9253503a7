"""LiteRT, and the graphs that it runs."""
