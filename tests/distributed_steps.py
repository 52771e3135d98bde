"""Thirty steps of a tiny model on one device, two devices or as one of two workers; as a program.

It prints JSON: each step's loss and norm of gradients, and the shape of the memory of all rows.
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

from transformer_xl import ModelConfig, TransformerXL
from transformer_xl.training.adam import Adam
from transformer_xl.training.distribute import Replicas, make_replicas
from transformer_xl.training.steps import make_train_step
from transformer_xl.training.train_state import TrainState

B, L, V, STEPS = 8, 5, 37, 30


def trained(replicas: Replicas, jit_compile=False, accumulate_steps=1, dropout=0.0):
    """The losses and norms, `[STEPS, 2]`, and the memory of all rows."""
    config = ModelConfig(
        V,
        num_layers=2,
        model_dim=8,
        num_heads=2,
        feed_forward_dim=11,
        cutoffs=(7, 19),
        div_val=2,
        memory_length=7,
        dropout=dropout,
    )
    with replicas.scope():
        keras.utils.set_random_seed(1)
        model = TransformerXL(config, seed=1)
        state = TrainState(model, ema_decay=0.9)
        step = make_train_step(model, Adam(0.01), 0.25, jit_compile, accumulate_steps, state)
    memory = replicas.split(model.initial_memory(B))
    reports = []
    for number in range(STEPS):
        random = np.random.default_rng(number)
        tokens = random.integers(0, V, size=(B, L + 1)).astype("int32")
        weights = random.random((B, L), "float32")
        batch = replicas.split((tokens[:, :-1], tokens[:, 1:], weights))
        memory, metrics = step(*batch, memory)
        reports.append([float(metrics.loss), float(metrics.gradient_norm)])
    seed = model.seed_generator.state.numpy()
    return np.array(reports), replicas.gather(memory), seed


if __name__ == "__main__":
    if sys.argv[1] == "mirrored":
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
        )
    reports, memory, _ = trained(make_replicas(sys.argv[1]))
    shape = memory.hidden[0].shape.as_list()
    print(json.dumps({"reports": reports.tolist(), "shape": shape}))
