"""Latency of .tflite models on this device: `fedprune benchmark MODEL.tflite [MODEL ...]`.

============  =================================================================
worker        one model in one process: loads it, times it, knows its peak memory
measure       starts a worker for each model and gives them turns
shapes        the shapes of inputs that are measured
results       what was measured, and the arithmetic on it
this_machine  what it was measured on
table         how a person sees it
command       how a person asks for it
============  =================================================================
"""
