"""The needs of an agent on a device, against the keras trainer and Flower: `python -m benchmarks.agent_memory`."""
