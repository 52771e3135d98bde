"""What an optimizer gets of a table of which some rows are looked at: each row once, in sum.

Adam's first step divides a gradient by its own size, so that rows squared one by one show at once.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import adaptive
from adaptive.rows import each_row_once

V, D, CUTOFFS, RATE, CLIP = 12, 4, [4, 8], 0.1, 0.05
IDS = np.array([[3, 3, 7], [3, 0, 7], [7, 7, 7], [0, 11, 11]])
TARGETS = np.array([[3, 7, 0], [3, 3, 3], [5, 7, 7], [1, 0, 11]])
KERNEL = np.random.RandomState(0).randn(V, D).astype(np.float32)
OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(RATE),
    "clipnorm": lambda: keras.optimizers.SGD(1.0, clipnorm=CLIP),
    "global_clipnorm": lambda: keras.optimizers.SGD(1.0, global_clipnorm=CLIP),
}


def make(kind, optimizer, **compiling):
    """A table that is looked at by ids, and a head."""
    keras.utils.set_random_seed(3)
    if kind == "adaptive":
        embedding = adaptive.AdaptiveEmbedding(V, D, cutoffs=CUTOFFS)
    else:
        embedding = keras.layers.Embedding(V, D)
    tied_to = embedding if kind == "tied" else None
    head = adaptive.SampledSoftmax(V, V, D, use_bias=False, tied_to=tied_to)
    model = adaptive.SoftmaxModel(embedding, head)
    model(IDS)
    embedding.set_weights(np.split(KERNEL, CUTOFFS) if kind == "adaptive" else [KERNEL])
    if kind != "tied":
        head.set_weights([KERNEL[::-1].copy()])
    model.compile(optimizer(), **compiling)
    return model


def dense_gradients(kind):
    """Of the mean loss, where rows are looked at by products with one-hot vectors."""
    table, kernel = tf.constant(KERNEL), tf.constant(KERNEL[::-1])
    with tf.GradientTape() as tape:
        tape.watch([table, kernel])
        hidden = tf.one_hot(IDS, V) @ table
        logits = hidden @ tf.transpose(table if kind == "tied" else kernel)
        loss = tf.reduce_mean(
            tf.nn.softmax_cross_entropy_with_logits(tf.one_hot(TARGETS, V), logits)
        )
    gradients = tape.gradient(loss, [table, kernel])
    return [gradient.numpy() for gradient in gradients if gradient is not None]


def expected(kind, name):
    """Of each weight, the change that the optimizer's first step makes."""
    gradients = dense_gradients(kind)
    if name == "adam":
        # Kingma and Ba (2015), the end of section 2: epsilon is added to the uncorrected root.
        epsilon = 1e-7 / np.sqrt(1 - 0.999)
        return [-RATE * gradient / (np.abs(gradient) + epsilon) for gradient in gradients]
    tables = [np.split(gradients[0], CUTOFFS) if kind == "adaptive" else [gradients[0]]]
    tables += [[kernel] for kernel in gradients[1:]]
    norms = [[np.linalg.norm(table) for table in parts] for parts in tables]
    if name == "global_clipnorm":
        of_all = np.linalg.norm([norm for parts in norms for norm in parts])
        norms = [[of_all] * len(parts) for parts in norms]
    assert min(norm for parts in norms for norm in parts) > CLIP
    return [
        np.concatenate([-table * CLIP / norm for table, norm in zip(*pair)])
        for pair in zip(tables, norms)
    ]


def changes(model, kind):
    model.fit(IDS, TARGETS, batch_size=len(IDS), shuffle=False, verbose=0)
    weights = model.get_weights()
    if kind == "adaptive":
        weights = [np.concatenate(weights[:3]), *weights[3:]]
    return [now - before for now, before in zip(weights, [KERNEL, KERNEL[::-1]])]


def assert_close(kind, name, found):
    for gradient, change, wanted in zip(dense_gradients(kind), found, expected(kind, name)):
        # Under Adam a weight with nothing but rounding in its gradient moves by anything.
        certain = np.abs(gradient) > 1e-5
        assert certain.sum() > 12
        np.testing.assert_allclose(change[certain], wanted[certain], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["adaptive", "plain", "tied"])
def test_a_step_is_that_of_the_dense_gradient(kind, name):
    model = make(kind, OPTIMIZERS[name], run_eagerly=True)
    assert_close(kind, name, changes(model, kind))


def test_a_step_of_two_replicas_is_that_of_the_dense_gradient(mirrored):
    """Ids 3, 7 and 0 are in both halves of the batch."""
    with mirrored.scope():
        model = make("adaptive", OPTIMIZERS["adam"])
    assert_close("adaptive", "adam", changes(model, "adaptive"))


@pytest.mark.parametrize("index_dtype", [tf.int32, tf.int64])
@pytest.mark.parametrize("ids", [[], [2], [5, 0, 5, 5, 1, 0]])
def test_each_row_once(ids, index_dtype):
    values = np.arange(2.0 * len(ids), dtype=np.float32).reshape(-1, 2) + 1
    slices = tf.IndexedSlices(values, tf.constant(ids, index_dtype), tf.constant([6, 2]))
    once = tf.function(each_row_once, jit_compile=bool(ids))(slices)
    dense = np.zeros([6, 2], np.float32)
    np.add.at(dense, np.array(ids, int), values)
    np.testing.assert_array_equal(tf.convert_to_tensor(once), dense)
    filled = once.indices.numpy()[np.abs(once.values).max(-1) > 0]
    assert sorted(filled) == sorted(set(ids))
    assert once.values.shape == values.shape and once.indices.dtype == index_dtype
