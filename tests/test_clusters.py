"""Clusters, the arithmetic of cutoffs, and how both layers take their arguments."""

import json

import numpy as np
import pytest
import tensorflow as tf

from adaptive import AdaptiveEmbedding, AdaptiveSoftmax, Clusters
from adaptive.clusters import per_cluster, projected


def test_a_head_and_two_tails():
    clusters = Clusters(11, (2, 5))
    assert clusters.num_clusters == 3
    assert clusters.num_tails == 2
    assert clusters.starts == (0, 2, 5)
    assert clusters.sizes == (2, 3, 6)
    assert clusters.shortlist == 2


@pytest.mark.parametrize("none", [None, (), []])
def test_without_cutoffs_there_is_one_cluster(none):
    clusters = Clusters(7, none)
    assert clusters.cutoffs == ()
    assert clusters.num_clusters == 1
    assert clusters.num_tails == 0
    assert clusters.starts == (0,)
    assert clusters.sizes == (7,)
    assert clusters.shortlist == 7


def test_clusters_of_one_word():
    clusters = Clusters(5, (1, 2, 4))
    assert clusters.sizes == (1, 1, 2, 1)


def test_clusters_of_ids():
    clusters = Clusters(11, (2, 5))
    ids = tf.constant([[0, 1, 2], [4, 5, 10]])
    cluster = clusters.cluster_of(ids)
    assert cluster.dtype == tf.int32
    np.testing.assert_array_equal(cluster, [[0, 0, 1], [1, 2, 2]])


@pytest.mark.parametrize(
    ("cluster", "positions"),
    [
        (0, [0, 1, 1, 1, 1, 1]),
        (1, [0, 0, 0, 2, 2, 2]),
        (2, [0, 0, 0, 0, 0, 5]),
    ],
)
def test_positions_inside_a_cluster_are_clipped_to_it(cluster, positions):
    ids = tf.constant([0, 1, 2, 4, 5, 10])
    np.testing.assert_array_equal(Clusters(11, (2, 5)).local(ids, cluster), positions)


def test_the_widest_cluster_comes_first():
    clusters = Clusters(11, (2, 5))
    assert clusters.widths(64) == (64, 64, 64)
    assert clusters.widths(64, 4) == (64, 16, 4)
    assert clusters.widths(19, 2) == (19, 9, 4)
    assert clusters.widths(19, 1.5) == (19, 12, 8)
    assert all(type(width) is int for width in clusters.widths(np.int64(19), np.float32(1.5)))


@pytest.mark.parametrize(
    ("cutoffs", "message"),
    [
        ([5, 2], r"must rise.*\[5, 2\].*Try: \[2, 5\]"),
        ([2, 2, 5], r"must rise.*\[2, 2, 5\].*Try: \[2, 5\]"),
        ([0, 5], r"between 1 and vocabulary size - 1 = 10.*\[0, 5\]"),
        ([-3, 5], r"between 1 and vocabulary size - 1 = 10.*\[-3, 5\]"),
        ([2, 11], r"between 1 and.* = 10.*\[2, 11\].*Leave the vocabulary size itself out"),
        ([2, 13], r"between 1 and vocabulary size - 1 = 10.*\[2, 13\]"),
        ([2.0, 5], r"must be integers.*\[2\.0, 5\]"),
        (np.array([2.0, 5.0]), r"must be integers"),
        ([True, 5], r"must be integers.*\[True, 5\]"),
        ([2, "5"], r"must be integers.*\[2, '5'\]"),
        ([2, None], r"must be integers.*\[2, None\]"),
    ],
)
def test_refused_cutoffs(cutoffs, message):
    with pytest.raises(ValueError, match=message):
        Clusters(11, cutoffs)


@pytest.mark.parametrize("vocab_size", [0, -7, 11.0, True, None, "11"])
def test_refused_vocabulary_sizes(vocab_size):
    with pytest.raises(ValueError, match=r"vocabulary size must be a positive integer.*Received"):
        Clusters(vocab_size)


def test_a_vocabulary_of_one_word_has_no_room_for_cutoffs():
    assert Clusters(1).sizes == (1,)
    with pytest.raises(ValueError, match=r"between 1 and vocabulary size - 1 = 0"):
        Clusters(1, [1])


@pytest.mark.parametrize("embed_dim", [0, -19, 19.0, True])
def test_refused_widths(embed_dim):
    with pytest.raises(ValueError, match=r"width must be a positive integer.*Received"):
        Clusters(11, (2, 5)).widths(embed_dim)


@pytest.mark.parametrize("div_val", [0, 0.5, -2, True, "2", None, float("nan")])
def test_refused_divisors(div_val):
    with pytest.raises(ValueError, match=r"div_val must be at least 1.*Received: div_val="):
        Clusters(11, (2, 5)).widths(19, div_val)


def test_no_cluster_may_have_width_zero():
    assert Clusters(11, (2, 5)).widths(16, 4) == (16, 4, 1)
    with pytest.raises(ValueError, match=r"width of at least 1.*embed_dim=13, div_val=4.*13, 3, 0"):
        Clusters(11, (2, 5)).widths(13, 4)


def test_the_callers_list_is_left_alone():
    cutoffs = [2, 5]
    clusters = Clusters(11, cutoffs)
    assert cutoffs == [2, 5]
    cutoffs.append(7)
    assert clusters.cutoffs == (2, 5)


def test_numpy_integers_become_pythons():
    # JSON, in which layers are saved, knows no others.
    clusters = Clusters(np.int64(11), np.array([2, 5]))
    assert clusters == Clusters(11, (2, 5))
    assert type(clusters.vocab_size) is int
    assert [type(cutoff) for cutoff in clusters.cutoffs] == [int, int]


@pytest.mark.parametrize("ids", [[[0, 11]], [[-1, 3]]])
def test_ids_outside_the_vocabulary_are_refused_in_eager_calls(ids):
    message = rf"The labels must be ids from 0 to 10.*from {min(ids[0])} to {max(ids[0])}"
    with pytest.raises(ValueError, match=message):
        Clusters(11, (2, 5)).check_ids(tf.constant(ids), "The labels")


def test_the_check_lets_good_empty_and_symbolic_ids_pass():
    clusters = Clusters(11, (2, 5))
    clusters.check_ids(tf.constant([0, 10]), "The labels")
    clusters.check_ids(tf.zeros([0], tf.int32), "The labels")

    @tf.function
    def traced(ids):
        # Reading its values would raise in here.
        clusters.check_ids(ids, "The labels")
        return ids

    assert traced(tf.constant(11)) == 11


@pytest.mark.parametrize(
    ("widths", "force_projection", "div_val", "expected"),
    [
        ((19, 19), None, 1, (False, False)),
        ((17, 17), None, 1, (True, True)),
        ((19, 9), None, 2, (True, True)),
        ((19,), None, 2, (True,)),
        ((19, 19), True, 1, (True, True)),
        ((19, 9), False, 2, (False, True)),
        ((17, 17), False, 1, (True, True)),
    ],
)
def test_which_clusters_have_projections(widths, force_projection, div_val, expected):
    assert projected(widths, 19, force_projection, div_val) == expected


def test_one_bool_stands_for_every_cluster():
    assert per_cluster(True, 3, "bind_embeddings") == (True, True, True)
    assert per_cluster(np.False_, 2, "bind_embeddings") == (False, False)
    assert per_cluster([True, False], 2, "bind_embeddings") == (True, False)
    with pytest.raises(ValueError, match=r"bind_embeddings.*each of the 3 clusters.*\[True\]"):
        per_cluster([True], 3, "bind_embeddings")


def embedding(vocab_size, width, **kwargs):
    return AdaptiveEmbedding(vocab_size, width, **kwargs)


def softmax(vocab_size, width, **kwargs):
    return AdaptiveSoftmax(width, vocab_size, **kwargs)


@pytest.mark.parametrize("layer", [embedding, softmax])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cutoffs": [5, 2]}, r"Cutoffs must rise.*\[5, 2\]"),
        ({"cutoffs": [5, 11]}, r"between 1 and vocabulary size - 1 = 10"),
        ({"cutoffs": 5}, r"Cutoffs must be a list.*Received: 5.*Try: \[5\]"),
        ({"cutoffs": [2, 5], "div_val": 5}, r"width of at least 1.*\[19, 3, 0\]"),
        ({"div_val": 0.5}, r"div_val must be at least 1"),
        ({"embed_dim": 0}, r"width must be a positive integer.*0"),
    ],
)
def test_layers_refuse_the_same(layer, arguments, message):
    with pytest.raises(ValueError, match=message):
        layer(11, 19, **arguments)


@pytest.mark.parametrize("layer", [embedding, softmax])
def test_layers_copy_the_callers_list(layer):
    cutoffs = [2, 5]
    config = layer(11, 19, cutoffs=cutoffs).get_config
    assert cutoffs == [2, 5]
    cutoffs.append(7)
    assert config()["cutoffs"] == [2, 5]


@pytest.mark.parametrize("layer", [embedding, softmax])
def test_layers_made_with_numpy_cutoffs_can_be_saved(layer):
    config = json.loads(json.dumps(layer(11, 19, cutoffs=np.array([2, 5])).get_config()))
    assert config["cutoffs"] == [2, 5]
