"""Graphs for LiteRT, written from a network's description without TensorFlow: on devices, gateways and workstations.

A *training graph* takes a batch and the weights, and returns the loss, every weight's gradient and new moving
statistics (`training`); the optimizer, masks and schedule are the trainer's. An *inference graph* holds weights and
turns a batch into the network's outputs (`inference`). Layers are written down as operations (`rules`, `operations`,
`windows`, `normalization`, `losses`), for training on a small reverse-mode tape (`autodiff`), in a graph (`graph`) that
becomes a file (`file`). Equal descriptions give equal bytes on every machine.
"""
