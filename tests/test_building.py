"""What a call or its making has built may be built again, as before weights are copied into it."""

import numpy as np
import pytest

from adaptive import AdaptiveLogSoftmaxWithLoss, AdaptiveSoftmax, SampledSoftmax
from transformer_xl import ModelConfig, TransformerXL


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


@pytest.mark.parametrize("final_norm", [False, True])
def test_a_second_build_of_a_model_changes_nothing(final_norm):
    model = TransformerXL(ModelConfig(11, num_layers=1, model_dim=4, final_norm=final_norm))
    weights = [id(weight) for weight in model.weights]
    model.build(None)
    assert [id(weight) for weight in model.weights] == weights
