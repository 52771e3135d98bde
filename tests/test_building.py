"""A head that a call has built may be built again, as before weights are copied into it."""

import numpy as np
import pytest

from adaptive import AdaptiveLogSoftmaxWithLoss, AdaptiveSoftmax, SampledSoftmax


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdaptiveSoftmax(4, 11, cutoffs=[3]),
        lambda: AdaptiveLogSoftmaxWithLoss(4, 11, cutoffs=[3]),
        lambda: SampledSoftmax(5, 11),
    ],
)
def test_a_second_build_changes_nothing(make):
    head = make()
    hidden = np.ones([2, 4], np.float32)
    before = head(hidden)
    weights = [id(weight) for weight in head.weights]
    head.build(None)
    assert [id(weight) for weight in head.weights] == weights
    np.testing.assert_array_equal(head(hidden), before)
