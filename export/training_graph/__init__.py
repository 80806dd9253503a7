"""The training graph: what one training step computes, as a TFLite file that needs no TensorFlow.

It takes a batch and the weights, and returns the loss, every weight's gradient and new moving statistics; the
optimizer, masks and schedule are the trainer's. Keras layers are written down as differentiable operations
(`layers`, `operations`, `windows`, `normalization`, `losses`) on a small reverse-mode tape (`autodiff`), which writes
a FlatBuffer (`flatbuffer`). What was written is compared with tf_keras before it is shipped (`proof`).
"""
