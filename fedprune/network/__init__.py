"""The description of a network: layers with typed attributes, the tensors that they hold, and the calls that join them.

It is data, and all that travels of a model: devices and gateways write their graphs from it, and the keras trainer
builds its model from it (`description`, `layers`, `check`).
"""
