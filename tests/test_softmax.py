"""AdaptiveSoftmax against the oracle, over a table of configurations and of target distributions.

D width of the hidden states, V vocabulary, E a cluster's embedding width.
"""

import itertools
import json
import zipfile
from typing import NamedTuple

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from adaptive import AdaptiveEmbedding, AdaptiveSoftmax, cross_entropy
from tests.reference import adaptive as oracle

D, SHAPE = 19, (3, 7)
T = 21


class Case(NamedTuple):
    vocab_size: int
    cutoffs: tuple
    embed_dim: int | None
    div_val: int
    force_projection: bool | None
    use_bias: bool
    bind_embeddings: tuple | None  # None: not tied
    bind_projections: tuple | None
    chunk_bytes: int  # 1: chunks of 8 rows


def draw_cases(number):
    """Every value of every option occurs; their combinations and the cutoffs are drawn."""
    random = np.random.default_rng(4)

    def column(*values):
        values = list(itertools.islice(itertools.cycle(values), number))
        return [values[i] for i in random.permutation(number)]

    options = zip(
        column((), "one word each", "any", "any"),  # cutoffs
        column(None, 17, 23),  # embed_dim: as wide as the hidden states, narrower, wider
        column(1, 2, 4),
        column(None, True, False),
        column(True, False),
        column(None, "all", "mixed", "mixed"),
        column(1, 2**26),
    )
    cases = []
    for kind, embed_dim, div_val, force_projection, use_bias, ties, chunk_bytes in options:
        vocab_size = int(random.choice([11, 23, 31]))
        if kind == "one word each":
            cutoffs = (1, 2)
        else:
            chosen = random.choice(np.arange(1, vocab_size), len(kind) // 3 * 2, replace=False)
            cutoffs = tuple(sorted(chosen.tolist()))
        num_clusters = len(cutoffs) + 1
        bind = [(ties == "all",) * num_clusters] * 2
        if ties == "mixed":
            bind = [tuple((random.random(num_clusters) < 0.5).tolist()) for _ in range(2)]
        if ties is None:
            bind = [None, None]
        cases.append(
            Case(
                vocab_size,
                cutoffs,
                embed_dim,
                div_val,
                force_projection,
                use_bias,
                *bind,
                chunk_bytes,
            )
        )
    return cases


CASES = draw_cases(12)
