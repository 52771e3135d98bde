"""How much a loss takes whose products are in 16 bits: run by test_copies_of_tables.

    python -m tests.copy_of_a_table CASE

prints the peak of memory beyond what was there before, in sizes of the table, or nothing where
TensorFlow does not say what it holds. CASE is "known" or "unknown": how many rows there are.

It is the least of several traces: the allocator counts blocks, and now and then gives a tensor one
that is larger.
"""

import os
import sys

os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # whose allocator says what is held

import tensorflow as tf

from adaptive.cross_entropy import Rows, linear_loss

V, E = 2**15, 128
CHUNK = 8
CPU = "CPU:0"


def peak(known: bool) -> float:
    """Of a loss of one chunk and its gradients, over the bytes of the table."""
    num_rows = CHUNK if known else 2 * CHUNK
    table, inputs = tf.Variable(tf.ones([V, E])), tf.Variable(tf.ones([num_rows, E]))

    @tf.function(autograph=False)
    def gradients(count):
        with tf.GradientTape() as tape:
            rows = None if known else Rows(tf.range(num_rows), tf.constant(0), count)
            arguments = (tf.cast(inputs, tf.bfloat16), table, None, tf.range(num_rows))
            settings = (rows, CHUNK, None, None, True)
            loss = linear_loss(*arguments, tf.ones([num_rows]), *settings)
        return [gradient[0, 0] for gradient in tape.gradient(loss, [inputs, table])]

    gradients(tf.constant(CHUNK))
    before = tf.config.experimental.get_memory_info(CPU)["current"]
    tf.config.experimental.reset_memory_stats(CPU)
    gradients(tf.constant(CHUNK))
    return (tf.config.experimental.get_memory_info(CPU)["peak"] - before) / (4 * V * E)


if __name__ == "__main__":
    try:
        tf.config.experimental.get_memory_info(CPU)
    except ValueError:
        sys.exit()
    print(min(peak(sys.argv[1] == "known") for _ in range(4)))
