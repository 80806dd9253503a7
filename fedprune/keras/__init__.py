"""The one place where TensorFlow, tf_keras and TF-MOT come in."""
