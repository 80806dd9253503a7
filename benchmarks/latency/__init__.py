"""Latency of .tflite models on this device: `fedprune benchmark MODEL.tflite [MODEL ...]`.

==============  =================================================================
worker          one model in one process: loads it, times it, knows its peak memory
process         the parent's end of it
measure         starts a worker for each model and number of threads, and gives them turns
shapes          the shapes of inputs that are measured
results         what was measured, and the arithmetic on it
this_machine    what it was measured on
conditions      what the machine tells of its load, clock, heat and memory meanwhile
judgement       whether that disturbed the measurement
sparse_kernels  whether XNNPACK has sparse kernels for a model, by its operators
operators       reads these from a file
journal         what was measured so far, for a benchmark that goes on later
table           how a person sees it
comparison      two benchmarks beside each other
history         benchmarks over time, and their picture
command         how a person asks for it
==============  =================================================================
"""
