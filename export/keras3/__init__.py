"""Models that Keras 3 saved, made anew in tf_keras, which alone TF-MOT prunes. Keras 3 itself is not needed.

The configuration is foreign data: of it only the settings that are listed here are used, for layers and operators
that are (`layers`, `operators`); `model` joins them, and `weights` finds their weights in the file.
"""
