"""The one place where TensorFlow, tf_keras and TF-MOT come in (`stack`), and what is known of Keras' layers.

A family of layers has a module here, as in `fedprune.network` and `fedprune.graph`. It has both directions: readers
from Keras into the draft of a description, and makers of Keras layers from a description. `layers` has all of them.
"""
