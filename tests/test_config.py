"""The rules of ModelConfig and TrainConfig, derived fields, and published parameter counts."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest

from transformer_xl import ModelConfig, TrainConfig, TransformerXL


def model_config(**changes):
    """A small valid configuration, changed."""
    return ModelConfig(**{"vocab_size": 23, "model_dim": 14, "num_heads": 7, **changes})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"vocab_size": 0}, "vocab_size .*Received: 0"),
        ({"vocab_size": 2.5}, "vocab_size .*Received: 2.5"),
        ({"num_layers": 0}, "num_layers must be an integer of at least 1. Received: 0"),
        ({"model_dim": 0}, "model_dim must be an integer of at least 1. Received: 0"),
        ({"model_dim": 7}, "model_dim must be even.*model_dim=7"),
        ({"num_heads": 0}, "num_heads must be an integer of at least 1. Received: 0"),
        ({"num_heads": 3}, "head_dim.*model_dim=14, num_heads=3"),
        ({"head_dim": 0}, "head_dim must be an integer of at least 1. Received: 0"),
        ({"feed_forward_dim": 0}, "feed_forward_dim must be an integer of at least 1. Received: 0"),
        ({"embedding_dim": 0}, "embedding_dim .*Received: 0"),
        ({"cutoffs": (13, 5)}, r"(?i)cutoffs must rise.*cutoffs=\[13, 5\]"),
        ({"cutoffs": (5, 5)}, r"(?i)cutoffs must rise, each one once.*cutoffs=\[5, 5\]"),
        ({"cutoffs": (0, 5)}, r"(?i)cutoffs must lie between 1 and .*= 22.*cutoffs=\[0, 5\]"),
        ({"cutoffs": (5, 23)}, r"(?i)cutoffs must lie between 1 and .*= 22.*cutoffs=\[5, 23\]"),
        ({"cutoffs": (2.5,)}, r"(?i)cutoffs must be integers.*cutoffs=\[2.5\]"),
        ({"div_val": 0.5}, "div_val must be at least 1.*div_val=0.5"),
        ({"cutoffs": (5, 13), "div_val": 5}, r"div_val=5.*widths \[14, 2, 0\]"),
        ({"tie_projections": "some"}, "tie_projections must be one of .*'some'"),
        ({"tie_projections": (True, False)}, r"tie_projections must be .*\[True, False\]"),
        ({"layer_norm": "middle"}, "layer_norm must be one of post, pre. Received: 'middle'"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon must be above 0. Received: 0.0"),
        ({"block_pattern": "afxafafaf"}, "block_pattern must consist of a .*'afxafafaf'"),
        ({"block_pattern": "afafaf"}, "block_pattern .*with 3 times a, num_layers=4"),
        ({"block_pattern": ""}, "block_pattern .*with 0 times a, num_layers=4"),
        ({"dropout": -0.1}, "^dropout must be at least 0 and below 1. Received: -0.1"),
        ({"dropout": 1.0}, "^dropout must be at least 0 and below 1. Received: 1.0"),
        ({"dropout": math.nan}, "^dropout must be at least 0 and below 1. Received: nan"),
        ({"attention_dropout": 1.0}, "attention_dropout must be .*below 1. Received: 1.0"),
        ({"memory_length": -1}, "memory_length must be at least 0. Received: -1"),
        ({"memory_start": "full"}, "memory_start must be one of empty, zeros. Received: 'full'"),
        ({"clamp_length": 0}, "clamp_length must be at least 1, or -1.*Received: 0"),
        ({"clamp_length": -2}, "clamp_length must be at least 1, or -1.*Received: -2"),
        ({"same_length": True, "memory_length": 0}, "same_length .*memory_length=0"),
        ({"init_stddev": math.inf}, "^init_stddev must be finite.*Received: inf"),
        ({"init_stddev": 0.0}, "^init_stddev must be above 0. Received: 0.0"),
        ({"projection_init_stddev": -1.0}, "projection_init_stddev must be above 0.*-1.0"),
        ({"memory_length": 2.5}, "memory_length must be an integer. Received: 2.5"),
        ({"memory_length": None}, "memory_length must be an integer. Received: None"),
        ({"clamp_length": 2.5}, "clamp_length must be an integer. Received: 2.5"),
        ({"same_length": "false"}, "same_length must be True or False. Received: 'false'"),
        ({"tie_tables": "no"}, "tie_tables must be True or False. Received: 'no'"),
        ({"force_projection": 2}, "force_projection must be True or False. Received: 2"),
        ({"dropout": "0.1"}, "^dropout must be a number. Received: '0.1'"),
        ({"layer_norm_epsilon": None}, "layer_norm_epsilon must be a number. Received: None"),
        ({"cutoffs": 5}, r"Cutoffs must be a list. Received: 5"),
    ],
)
def test_model_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        model_config(**changes)


def test_numbers_of_numpy_become_pythons():
    """As JSON, config.json and HuggingFace's among it, takes them only."""
    given = {
        "vocab_size": np.int64(23),
        "model_dim": np.int32(14),
        "cutoffs": np.array([5, 13]),
        "div_val": np.int64(2),
        "dropout": np.float32(0.5),
        "memory_length": np.uint8(7),
        "same_length": np.True_,
    }
    config = ModelConfig(num_heads=7, **given)
    plain = ModelConfig(num_heads=7, **{name: value.tolist() for name, value in given.items()})
    assert config == plain
    assert json.dumps(dataclasses.asdict(config)) == json.dumps(dataclasses.asdict(plain))
    train = TrainConfig(batch_size=np.int64(4), learning_rate=np.float64(0.5))
    assert json.dumps(dataclasses.asdict(train))
    assert type(TrainConfig(max_steps=1e5).max_steps) is int
    assert ModelConfig(9, memory_length=np.array(5)) == ModelConfig(9, memory_length=5.0)
    with pytest.raises(ValueError, match="batch_size must be an integer. Received: 2.5"):
        TrainConfig(batch_size=2.5)


@pytest.mark.parametrize(
    "changes, message",
    [
        *(
            ({name: 0}, f"{name} must be at least 1. Received: 0")
            for name in (
                "batch_size",
                "segment_length",
                "max_steps",
                "report_every",
                "checkpoint_every",
                "eval_batch_size",
                "eval_segment_length",
            )
        ),
        *(
            ({name: -1}, f"{name} must be at least 0. Received: -1")
            for name in ("seed", "warmup_steps", "eval_every", "eval_steps", "eval_memory_length")
        ),
        ({"optimizer": "sgd"}, "optimizer must be one of .*adam.*'sgd'"),
        ({"schedule": "linear"}, "schedule must be one of cosine, .*'linear'"),
        ({"cosine_from": "end"}, "cosine_from must be one of start, warmup_end.*'end'"),
        ({"precision": "half"}, "precision must be one of auto, .*'half'"),
        ({"jit_compile": True}, "jit_compile must be one of auto, true, false.*True"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0. Received: 0.0"),
        ({"min_learning_rate_ratio": -0.1}, "min_learning_rate_ratio must be from 0 to 1.*-0.1"),
        ({"min_learning_rate_ratio": 1.5}, "min_learning_rate_ratio must be from 0 to 1.*1.5"),
        ({"clip_norm": -0.5}, "clip_norm must be at least 0. Received: -0.5"),
        *(
            ({name: value}, f"^{name} must be finite, and at most 3.4e.38. Received: {value}")
            for name, value in (
                ("clip_norm", math.nan),
                ("max_loss_rise", math.nan),
                ("loss_scale", math.nan),
                ("loss_scale", math.inf),
            )
        ),
        ({"learning_rate": math.inf}, "learning_rate must be finite.*Received: inf"),
        ({"learning_rate": 1e300}, "learning_rate must be finite, .*Received: 1e.300"),
        ({"seed": 2**32}, "seed must be from 0 to 4294967295. Received: 4294967296"),
        ({"eval_clamp_length": 0}, "eval_clamp_length must be at least 1, or -1.*Received: 0"),
    ],
)
def test_train_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**changes)


@pytest.mark.parametrize("name", ["clip_norm", "max_loss_rise"])
def test_infinity_is_no_bound(name):
    """Runs that were recorded with it can be read."""
    assert getattr(TrainConfig(**{name: math.inf}), name) == math.inf


@pytest.mark.parametrize(
    "changes",
    [
        {"warmup_steps": 0, "eval_every": 0, "eval_steps": 0, "seed": 0},
        {"clip_norm": 0.0, "min_learning_rate_ratio": 1.0, "seed": 2**32 - 1},
        {"eval_memory_length": 0, "eval_clamp_length": -1},
    ],
)
def test_train_config_takes_the_bounds(changes):
    config = TrainConfig(**changes)
    assert {name: getattr(config, name) for name in changes} == changes


@pytest.mark.parametrize(
    "changes", [{"memory_length": 0}, {"clamp_length": 1}, {"dropout": 0.0}, {"cutoffs": (1, 22)}]
)
def test_model_config_takes_the_bounds(changes):
    config = model_config(**changes)
    assert {name: getattr(config, name) for name in changes} == changes


def test_derived_fields():
    config = model_config(num_layers=3)
    assert (config.embedding_dim, config.head_dim, config.block_pattern) == (14, 2, "afafaf")
    # With head_dim the heads need not divide the width.
    given = model_config(num_heads=3, head_dim=5, embedding_dim=6, block_pattern="aaaaff")
    assert (given.embedding_dim, given.head_dim, given.block_pattern) == (6, 5, "aaaaff")


@pytest.mark.parametrize(
    "shorthand, expected",
    [
        ("all_but_head", (False, True, True)),
        ("all", (True, True, True)),
        ("none", (False, False, False)),
        (True, (True, True, True)),
        (False, (False, False, False)),
        ([False, False, True], (False, False, True)),
    ],
)
def test_tie_projections_becomes_one_bool_per_cluster(shorthand, expected):
    assert model_config(cutoffs=(5, 13), tie_projections=shorthand).tie_projections == expected


def test_all_but_head_with_one_cluster_ties_nothing():
    assert model_config(tie_projections="all_but_head").tie_projections == (False,)


def test_configs_are_frozen_values():
    config = model_config(cutoffs=[5, 13])
    assert config.cutoffs == (5, 13)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_layers = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().seed = 2
    # Derived fields are valid input, so that a stored configuration can be read back.
    assert ModelConfig(**dataclasses.asdict(config)) == config


@pytest.mark.parametrize(
    "given, message",
    [
        ({"vocab_size": 23}, r"a ModelConfig. Received: dict. Try: ModelConfig\(\*\*config"),
        (TrainConfig(), "must be a ModelConfig. Received: TrainConfig. Try: ModelConfig"),
    ],
)
def test_a_model_is_of_a_model_config(given, message):
    with pytest.raises(ValueError, match=message):
        TransformerXL(given)


WIKITEXT103 = {"vocab_size": 267735, "cutoffs": (20000, 40000, 200000)}
BASE_512 = {"model_dim": 512, "num_heads": 8, "feed_forward_dim": 2048}
LARGE_CHARACTER = {"num_layers": 24, "model_dim": 1024, "num_heads": 8, "feed_forward_dim": 3072}


@pytest.mark.parametrize(
    "recipe, untied, shared",
    [
        pytest.param(
            {
                **WIKITEXT103,
                "num_layers": 16,
                "model_dim": 410,
                "num_heads": 10,
                "feed_forward_dim": 2100,
            },
            151_119_838,
            151_107_538,
            id="wikitext103_base",
        ),
        pytest.param(
            {
                **WIKITEXT103,
                "num_layers": 18,
                "model_dim": 1024,
                "num_heads": 16,
                "feed_forward_dim": 4096,
                "div_val": 4,
            },
            285_205_322,
            285_170_506,
            id="wikitext103_large",
        ),
        pytest.param(
            {**BASE_512, "vocab_size": 204, "num_layers": 12},
            41_066_700,
            41_055_436,
            id="enwik8_base",
        ),
        pytest.param(
            {**LARGE_CHARACTER, "vocab_size": 204}, 277_278_924, 277_231_820, id="enwik8_large"
        ),
        pytest.param(
            {**LARGE_CHARACTER, "vocab_size": 27}, 277_097_499, 277_050_395, id="text8_large"
        ),
        pytest.param(
            {
                "vocab_size": 793470,
                "cutoffs": (60000, 100000, 640000),
                "num_layers": 18,
                "model_dim": 1024,
                "num_heads": 8,
                "feed_forward_dim": 4096,
                "div_val": 4,
                "tie_projections": "none",
            },
            357_846_881,
            357_812_065,
            id="lm1b_base",
        ),
        pytest.param(
            {
                **BASE_512,
                "vocab_size": 267735,
                "cutoffs": (19997, 39997, 199997),
                "num_layers": 16,
            },
            191_965_658,
            191_950_298,
            id="nvidia_wikitext103_base",
        ),
        pytest.param(
            {
                "vocab_size": 33278,
                "cutoffs": (5000, 15000),
                "num_layers": 4,
                "model_dim": 256,
                "num_heads": 4,
                "feed_forward_dim": 1024,
                "div_val": 4,
            },
            5_816_928,
            5_815_392,
            id="wikitext2_small",
        ),
    ],
)
def test_published_parameter_counts(recipe, untied, shared):
    assert count_parameters(ModelConfig(**recipe)) == untied
    assert count_parameters(ModelConfig(**recipe, untie_position_biases=False)) == shared


def count_parameters(config):
    """Counts without allocating: in this scope a variable has a shape and no value yet."""
    try:
        with keras.StatelessScope(initialize_variables=False):
            return TransformerXL(config).count_params()
    finally:
        # Keras keeps a list of the variables that still wait for their values.
        keras.utils.clear_session(free_memory=False)
