"""Tensors, losses and keyed randomness: what a model is made of, with no file, network or TensorFlow in it."""
