"""Decoding: greedy against full re-computation, sampling against the distribution it draws from.

B batch, P prompt length, V vocabulary.
"""

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from transformer_xl import ModelConfig, TransformerXL, decoding
from transformer_xl.decoding import Decoder, Sampling
from transformer_xl.generate import _row_seeds, checked_prompts, generate, stream

pytestmark = pytest.mark.usefixtures("graphs_as_written")

VOCAB = 11
CONFIG = ModelConfig(
    vocab_size=VOCAB,
    num_layers=2,
    model_dim=6,
    num_heads=2,
    feed_forward_dim=7,
    block_pattern="aaf",
    # A random model with untied tables does not just repeat its last word.
    tie_tables=False,
    init_stddev=0.4,
    memory_length=13,
    # Decoding must not drop.
    dropout=0.3,
)
PROMPT = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [5, 8, 9, 7, 9]], np.int32)
MANY = 2000


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    return TransformerXL(CONFIG)


@pytest.fixture(scope="module")
def greedy(model):
    return generate(model, PROMPT, 7, seed=(0, 0), temperature=0).numpy()


def test_greedy_equals_the_argmax_of_the_whole_text(model, greedy):
    text = PROMPT
    for _ in range(7):
        log_prob, _ = model.log_prob(text)
        text = np.concatenate([text, np.argmax(log_prob[:, -1:], -1).astype(np.int32)], 1)
    np.testing.assert_array_equal(greedy, text[:, 5:])
    assert greedy.dtype == np.int32
    # Else a model that says one word for ever would pass.
    assert len(np.unique(greedy)) > 3


def test_memory_length_bounds_what_is_remembered(model, greedy):
    memory = model.initial_memory(3, 2)
    log_prob, memory = model.log_prob(PROMPT, memory)
    expected = []
    for _ in range(7):
        expected.append(np.argmax(log_prob[:, -1:], -1))
        log_prob, memory = model.log_prob(expected[-1], memory)
    short = generate(model, PROMPT, 7, seed=(0, 0), temperature=0, memory_length=2)
    np.testing.assert_array_equal(short, np.concatenate(expected, 1))
    assert not np.array_equal(short, greedy)


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 1e-6}])
def test_greedy_in_other_words(model, greedy, settings):
    np.testing.assert_array_equal(generate(model, PROMPT, 7, seed=(5, 6), **settings), greedy)


def test_a_seed_gives_its_text(model):
    decoder, prompts = Decoder(model, Sampling(), num_tokens=7), tf.constant(PROMPT, tf.int64)
    # What `generate` does with each, by programs that are compiled once.
    first, again, other = (
        next(stream(decoder, checked_prompts(model, prompts), 7, seed, chunk=7)).numpy()
        for seed in ((1, 2), tf.constant([1, 2]), (1, 3))
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (3, 7)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"temperature": 0}, marks=pytest.mark.slow),
        pytest.param({}, marks=pytest.mark.slow),
        {"top_k": 4},
        pytest.param({"top_p": 0.8}, marks=pytest.mark.slow),
    ],
)
def test_a_prompt_goes_on_as_it_does_alone(model, settings):
    draw = np.random.default_rng(2)
    prompts = [draw.integers(0, VOCAB, length) for length in (1, 5, 200)]
    seeds = [(4, 0), (4, 1), (9, 9)]
    together = generate(model, prompts, 12, seeds, **settings).numpy()
    assert len({tuple(row) for row in together}) == 3
    # What `generate` does with each, by programs that are compiled once.
    decoder = Decoder(model, Sampling(**settings), num_tokens=12)
    for prompt, seed, row in zip(prompts, seeds, together):
        (alone,) = stream(decoder, [prompt], 12, [seed], chunk=12)
        np.testing.assert_array_equal(alone, [row])


def test_a_long_prompt_is_read_in_segments(model):
    prompt = np.random.default_rng(3).integers(0, VOCAB, 700)
    memory = model.initial_memory(1)
    _, memory = model(prompt[None, :188], memory)
    log_prob, memory = model.log_prob(prompt[None, 188:], memory)
    expected = []
    for _ in range(5):
        expected.append(np.argmax(log_prob[:, -1:], -1))
        log_prob, memory = model.log_prob(expected[-1], memory)
    found = generate(model, [prompt], 5, (0, 0), temperature=0)
    np.testing.assert_array_equal(found, np.concatenate(expected, 1))


def test_chunks_make_the_whole(model):
    decoder = Decoder(model, Sampling(repetition_penalty=1.5))
    prompts = [[1, 2, 3], [4]]
    (whole,) = stream(decoder, prompts, 8, (1, 2), chunk=8)
    parts = list(stream(decoder, prompts, 8, (1, 2), chunk=3))
    assert [part.shape[1] for part in parts] == [3, 3, 2]
    np.testing.assert_array_equal(tf.concat(parts, 1), whole)
    np.testing.assert_array_equal(model.generate(prompts, 8, (1, 2), repetition_penalty=1.5), whole)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_fewer_tokens_are_written_by_the_same_program(model, jit_compile):
    decoder = Decoder(model, Sampling(), jit_compile=jit_compile)
    prompts = [[1, 2, 3], [4]]
    parts = list(stream(decoder, prompts, 10, (1, 2), chunk=4))
    assert [part.shape[1] for part in parts] == [4, 4, 2]
    state, texts = decoder.begin(prompts, _row_seeds((1, 2), 2)), []
    for length in (1, 3, 2, 4):
        tokens, state = decoder.write(state, length)
        texts.append(tokens)
    np.testing.assert_array_equal(tf.concat(texts, 1), tf.concat(parts, 1))
    assert int(state.place) == 10
    assert decoder._write.experimental_get_tracing_count() == 1
    # More than ever before takes another, which writes the same.
    (whole,) = stream(decoder, prompts, 10, (1, 2), chunk=10)
    np.testing.assert_array_equal(tf.concat(parts, 1), whole)
    assert decoder._write.experimental_get_tracing_count() == 2


# Which of the cases; each is another program, and `same_length` changes nothing in their sizes.
@pytest.mark.parametrize(
    ("jit_compile", "same_length", "chosen"),
    [
        (False, False, (1, 6)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (False, True, range(7)),
                (False, False, (0, 4)),
                (True, False, (0, 1, 4, 6)),
            )
        ),
    ],
)
def test_a_short_text_has_short_rings(monkeypatch, jit_compile, same_length, chosen):
    """It costs what it needs, and reads as with the whole memory."""
    monkeypatch.setattr(decoding, "_SHORTEST_RINGS", 4)
    keras.utils.set_random_seed(5)
    model = TransformerXL(dataclasses.replace(CONFIG, same_length=same_length))
    read = tf.function(model.log_prob, autograph=False)
    decoder = Decoder(model, Sampling(temperature=0), 20, jit_compile=jit_compile)
    cases = [
        (1, 3, 4),  # full with the last token that is written
        (1, 4, 16),
        (2, 1, 4),
        (5, 3, 16),
        (5, 11, 16),  # their number, not that of the columns that the prompt is padded to
        (5, 12, 20),
        (5, 24, 20),  # forgets
    ]
    for length, num_tokens, rings in (cases[i] for i in chosen):
        tokens, memory = [PROMPT[:2, :length]], model.initial_memory(2, 20)
        state = decoder.begin(list(tokens[0]), _row_seeds((1, 2), 2), num_tokens)
        assert state.cache.length == rings
        text, _ = decoder.write(state, num_tokens)
        for _ in range(num_tokens):
            log_prob, memory = read(tokens[-1], memory)
            tokens.append(np.argmax(log_prob[:, -1:], -1).astype(np.int32))
        np.testing.assert_array_equal(text, np.concatenate(tokens[1:], 1))
    # Another number of rows is another program; what is compiled already is used again.
    for num_tokens, rings in ((4, 16), (3, 16), (None, 20), (16, 20)):
        state = decoder.begin([[1]], _row_seeds((1, 2), 1), num_tokens)
        assert state.cache.length == rings


def test_memory_that_begins_with_zeros_has_whole_rings():
    config = dataclasses.replace(CONFIG, memory_start="zeros", memory_length=70)
    decoder = Decoder(TransformerXL(config), Sampling())
    assert decoder.begin([[1]], _row_seeds((1, 2), 1), 3).cache.length == 70


def test_refuses_a_longer_text_than_it_was_told_of(model):
    # Not where the rings are those of the whole memory.
    greedy = Sampling(temperature=0)  # the fewest operations
    decoder = Decoder(model, greedy, 10, jit_compile=False)
    assert decoder.write(decoder.begin([[1]], _row_seeds((1, 2), 1), 5), 6)[0].shape == (1, 6)
    decoder = Decoder(model, greedy, 100, jit_compile=False)
    state = decoder.begin([[1]], _row_seeds((1, 2), 1), 5)
    _, state = decoder.write(state, 3)
    with pytest.raises(ValueError, match="longer.*Received: num_tokens=3, 2 left.*None"):
        decoder.write(state, 3)
    text, _ = decoder.write(state, 2)
    assert text.shape == (1, 2)


def test_rows_stop_for_themselves(model):
    prompts = [[1, 2, 3], [4], [7, 7]]
    free = generate(model, prompts, 30, (1, 2)).numpy()
    stops = (6, 2)
    decoder = Decoder(model, Sampling(), stop_ids=stops, jit_compile=False)
    (found,) = stream(decoder, prompts, 30, (1, 2), chunk=30)
    ends = []
    for row, expected in zip(found.numpy(), free):
        end = int(np.argmax(np.isin(expected, stops))) + 1
        assert np.isin(expected, stops).any()
        np.testing.assert_array_equal(row[:end], expected[:end])
        np.testing.assert_array_equal(row[end:], 6)
        ends.append(end)
    assert len(set(ends)) > 1
    assert len(list(stream(decoder, prompts, 30, (1, 2), chunk=1))) == max(ends)
    np.testing.assert_array_equal(generate(model, prompts, 30, (1, 2), stop_ids=stops), found)


def filtered(log_prob, temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0, seen=()):
    """The distribution to draw from, token by token."""
    log_prob = np.array(log_prob, np.float64)
    log_prob[list(set(seen))] *= repetition_penalty
    powers = np.exp(log_prob / temperature)
    probabilities = powers / powers.sum()
    falling = sorted(range(VOCAB), key=lambda token: -probabilities[token])
    if top_k:
        falling = falling[:top_k]
    total = sum(probabilities[token] for token in falling)
    result, reached = np.zeros(VOCAB), 0.0
    for token in falling:
        if reached < top_p:
            result[token] = probabilities[token]
            reached += probabilities[token] / total
    return result / result.sum()


def check_draws(draws, expected):
    """Never outside the set; inside, chi-square that chance exceeds once in 10,000."""
    counts = np.bincount(draws, minlength=VOCAB)
    inside = expected > 0
    assert not counts[~inside].any()
    wanted = len(draws) * expected[inside]
    statistic = np.sum((counts[inside] - wanted) ** 2 / wanted)
    freedom, x = inside.sum() - 1, math.log(10_000)
    assert statistic <= freedom + 2 * math.sqrt(freedom * x) + 2 * x  # Laurent and Massart (2000)


@pytest.mark.parametrize(
    "settings, size",
    [
        ({}, 11),
        # Each of these is in others, too.
        pytest.param({"temperature": 0.6}, 11, marks=pytest.mark.slow),
        pytest.param({"top_k": 4}, 4, marks=pytest.mark.slow),
        ({"top_k": 100, "top_p": 0.6}, 4),
        ({"top_k": 4, "top_p": 0.7, "temperature": 1.5}, 3),
        pytest.param({"repetition_penalty": 1.8}, 11, marks=pytest.mark.slow),
        ({"repetition_penalty": 1.8, "top_k": 5, "top_p": 0.9}, 4),
    ],
)
def test_draws_follow_the_distribution(model, settings, size):
    prompt = PROMPT[:1]
    draws = generate(model, np.repeat(prompt, MANY, 0), 2, seed=(7, 8), **settings).numpy()
    seen = prompt[0] if "repetition_penalty" in settings else ()
    expected = filtered(model.log_prob(prompt)[0][0, -1], seen=seen, **settings)
    # Cuts the vocabulary where it is meant to, so that the sets are worth testing.
    assert np.sum(expected > 0) == size
    check_draws(draws[:, 0], expected)
    # The second token, after the commonest first one.
    first = np.argmax(expected)
    text = np.append(prompt, [[first]], 1).astype(np.int32)
    after = filtered(model.log_prob(text)[0][0, -1], seen=(*seen, first), **settings)
    check_draws(draws[draws[:, 0] == first, 1], after)


@pytest.mark.parametrize("settings", [{"top_k": 3}, {"top_p": 0.25}])
def test_equally_likely_tokens_are_not_all_kept(settings):
    flat = TransformerXL(ModelConfig(vocab_size=VOCAB, num_layers=1, model_dim=2, num_heads=2))
    for variable in flat.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    draws = generate(flat, np.zeros([500, 1], np.int32), 1, seed=(1, 1), **settings)
    assert len(np.unique(draws)) == 3


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"prompt": [1, 2]}, r"shape \[B, P\].*shape \(2,\)"),
        ({"prompt": np.zeros([2, 0], np.int32)}, r"at least one token.*shape \(2, 0\)"),
        ({"prompt": [[3, 11]]}, "ids from 0 to 10. Received ids from 3 to 11"),
        ({"prompt": [[-1, 3]]}, "ids from 0 to 10. Received ids from -1 to 3"),
        ({"prompt": [[0.5]]}, "integer ids. Received: dtype float64"),
        ({"num_tokens": 0}, "num_tokens must be at least 1. Received: 0"),
        ({"temperature": -0.1}, "temperature must be at least 0. Received: -0.1"),
        ({"temperature": 1e300}, "temperature must be finite, and at most 3.4e.38. Received: 1e"),
        ({"repetition_penalty": np.inf}, "repetition_penalty must be finite, .*Received: inf"),
        ({"top_k": -1}, "top_k must be at least 0. Received: -1"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1. Received: 0.0"),
        ({"prompt": [[1, 2], []]}, r"at least one token.*Received: shape \(0,\)"),
        ({"repetition_penalty": 0.9}, "repetition_penalty must be at least 1. Received: 0.9"),
        ({"seed": (1, 2, 3)}, r"shape \[3, 2\]. Received: shape \(3,\), dtype int64. Try"),
        ({"seed": None}, r"two integers, shape \[2\].*Received: None. Try: seed=\(1, 2\)"),
        ({"seed": 7}, r"two integers, shape \[2\].*Received: 7. Try: seed=\(1, 2\)"),
        ({"seed": (0.5, 1.5)}, r"two integers.*Received: shape \(2,\), dtype float64"),
        ({"seed": (2**32, 1)}, r"have 32 bits.*Received: \(4294967296, 1\). Try"),
        ({"stop_ids": (11,)}, "stop_ids .* ids from 0 to 10"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1. Received: 1.5"),
        ({"num_tokens": 2.5}, "num_tokens must be an integer. Received: 2.5"),
        ({"top_k": 2.5}, "top_k must be an integer. Received: 2.5"),
        ({"stop_ids": 2}, "stop_ids must be a list of integer ids. Received: 2"),
        ({"stop_ids": {2, 3}}, "stop_ids must be a list of integer ids. Received: {2, 3}"),
        ({"stop_ids": [2.5]}, r"stop_ids must be a list of integer ids. Received: \[2.5\]"),
    ],
)
def test_refuses(model, changes, message):
    arguments = {"prompt": PROMPT, "num_tokens": 3, "seed": (0, 0), **changes}
    with pytest.raises(ValueError, match=message):
        generate(model, **arguments)


def test_counts_of_numpy(model):
    expected = generate(model, PROMPT, 3, (0, 0), top_k=2)
    found = generate(model, PROMPT, np.int64(3), np.array([0, 0]), top_k=np.int64(2))
    np.testing.assert_array_equal(found, expected)
