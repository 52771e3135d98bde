"""Values outside their rule get one error that says it, and what was received."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import adaptive
from adaptive import AdaptiveSoftmax, SampledSoftmax, SoftmaxModel

HIDDEN = np.ones([2, 4], np.float32)


@pytest.fixture(scope="module")
def head():
    return AdaptiveSoftmax(4, 11, cutoffs=[3])


@pytest.mark.parametrize("k", [2.5, True, None, "3", 0, 12, np.array([1, 2])])
def test_k(head, k):
    with pytest.raises(ValueError, match="k must be an integer from 1 to 11. Received: k="):
        head.top_k(HIDDEN, k)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"temperature": "a"}, "temperature must be a number of at least 0. Received: 'a'"),
        ({"temperature": None}, "temperature must be a number of at least 0. Received: None"),
        ({"temperature": np.nan}, "temperature must be a number of at least 0. Received: nan"),
        ({"top_k": 2.5}, "top_k must be an integer of at least 1, or None. Received: 2.5"),
        ({"top_k": True}, "top_k must be an integer of at least 1, or None. Received: True"),
        ({"top_p": "a"}, "top_p must be a number above 0 and at most 1, or None. Received: 'a'"),
        ({"seed": None}, "A seed must be two integers.*Received: None"),
    ],
)
def test_settings_of_a_draw(head, settings, message):
    with pytest.raises(ValueError, match=message):
        head.sample(HIDDEN, **{"seed": [1, 2], **settings})


@pytest.mark.parametrize("name", ["temperature", "top_p"])
def test_a_tensor_that_cannot_be_looked_at(head, name):
    def draw(value):
        return head.sample(HIDDEN, [1, 2], **{name: value})

    with pytest.raises(ValueError, match=f"{name} must be a number.*Pass a number of Python"):
        tf.function(draw, autograph=False)(tf.constant(0.7))
    # One that can be is a number.
    np.testing.assert_array_equal(draw(tf.constant(0.5)), draw(0.5))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: AdaptiveSoftmax(4, 11, label_smoothing="a"), "label_smoothing must be a number"),
        (lambda: SampledSoftmax(2.5, 11), "num_sampled must be an integer from 1 to.*2.5"),
        (lambda: SampledSoftmax(2, 11, "a"), "input_dim must be a positive integer.*'a'"),
        (
            lambda: adaptive.optimal_cutoffs([3, 2, 1], 2, 8, cost_model="x"),
            "cost_model must be a CostModel or None. Received: 'x'",
        ),
        (
            lambda: adaptive.expected_cost([3, 2, 1], [1], 8, cost_model=0),
            "cost_model must be a CostModel or None. Received: 0",
        ),
    ],
)
def test_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_class_of_a_metric(head):
    model = SoftmaxModel(keras.layers.Identity(), head)
    with pytest.raises(ValueError, match=r"an instance.*Received: Accuracy. Try: Accuracy\(\)"):
        model.compile("sgd", metrics=[adaptive.Accuracy])


def test_memory_bytes_of_numpy():
    tensors = tf.ones([2, 3]), tf.ones([5, 3]), None, tf.constant([0, 4])
    loss = adaptive.linear_cross_entropy(*tensors, memory_bytes=np.int64(1000))
    assert float(loss) == pytest.approx(2 * np.log(5), rel=1e-6)


@pytest.mark.parametrize(
    "words, width, clusters", [(2000, 64, 4), (2000, 32, 3), (2000, 3, 1), (3, 64, 3)]
)
@pytest.mark.filterwarnings("ignore:A full softmax would be faster")
def test_as_many_clusters_as_the_width_allows(words, width, clusters):
    head = AdaptiveSoftmax.from_counts(1e6 / np.arange(1, words + 1), width)
    assert len(head.widths) == clusters and head.widths[-1] >= 1
