"""ModelConfig.with_changes: as if the new values had been given at first."""

import dataclasses

import pytest

from tests.test_config import model_config
from transformer_xl import ModelConfig


@pytest.mark.parametrize(
    "changes",
    [
        {"model_dim": 28},
        {"num_heads": 2},
        {"num_layers": 3},
        {"model_dim": 28, "embedding_dim": 14, "head_dim": 5, "num_layers": 1},
        {"dropout": 0.5, "block_pattern": "aaaaf"},
    ],
)
@pytest.mark.parametrize(
    "given", [{}, {"embedding_dim": 8, "head_dim": 3}, {"num_heads": 3, "head_dim": 5}]
)
def test_sizes_that_were_made_of_others_follow_changes(given, changes):
    """As if the new values had been given at first; a stored configuration is no other one."""
    config = model_config(**given)
    expected = model_config(**{**given, **changes})
    assert config.with_changes(**changes) == expected
    assert ModelConfig(**dataclasses.asdict(config)).with_changes(**changes) == expected


@pytest.mark.parametrize("cutoffs", [(), (5,), (5, 13)])
@pytest.mark.parametrize("tied", ["all_but_head", "all", "none", (True, False, False)])
def test_ties_follow_other_cutoffs(tied, cutoffs):
    config = model_config(cutoffs=(3, 9), tie_projections=tied)
    if isinstance(tied, str) or len(cutoffs) == 2:
        expected = model_config(cutoffs=cutoffs, tie_projections=tied)
        assert config.with_changes(cutoffs=cutoffs) == expected
    else:
        with pytest.raises(ValueError, match="tie_projections must be one bool, or one for each"):
            config.with_changes(cutoffs=cutoffs)
    assert model_config().with_changes(cutoffs=(5,)) == model_config(cutoffs=(5,))


def test_changes_are_checked():
    with pytest.raises(ValueError, match="model_dim must be even"):
        model_config().with_changes(model_dim=7)
    with pytest.raises(TypeError, match="width"):
        model_config().with_changes(width=7)
