"""The proof that training graphs learn what tf_keras learns, and what a device finds wrong kernels with."""
