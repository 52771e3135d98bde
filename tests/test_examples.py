"""The examples, each at a tiny size: that they run, learn, and do what they say."""

import keras
import numpy as np
import pytest

from examples import lstm_language_model, product_recommender, tied_functional_model
from tests.corpus_files import write

NUM_WORDS = 37
CUTOFFS = [5, 17]
# Words, <unk> and <eos>.
VOCAB_SIZE = NUM_WORDS + 2
WIDTH = 16


@pytest.fixture(scope="module")
def language_model_flags(tmp_path_factory):
    """A corpus in which a word mostly decides the next."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(3)
    for split, num_lines in (("train", 700), ("valid", 60), ("test", 1)):
        lines = []
        for _ in range(num_lines):
            words = [rng.integers(NUM_WORDS)]
            for _ in range(14):
                any_word = int(NUM_WORDS * rng.random() ** 3)
                words.append((7 * words[-1] + 3) % NUM_WORDS if rng.random() < 0.8 else any_word)
            lines.append(" ".join(f"w{word}" for word in words))
        write(folder / "source" / f"wiki.{split}.tokens", " <unk> \n" + "\n".join(lines) + "\n")
    return [
        f"--data_dir={folder / 'source'}",
        f"--prepared_dir={folder / 'prepared'}",
        f"--width={WIDTH}",
        "--batch_size=16",
        "--segment_length=11",
        "--num_sampled=26",
        f"--cutoffs={','.join(map(str, CUTOFFS))}",
    ]


def language_model_options(flags):
    return lstm_language_model.make_parser().parse_args(flags)


def unigram_log_p(counts):
    return np.log(counts / counts.sum())


@pytest.mark.slow
def test_language_models_learn_alike(language_model_flags, capsys):
    results = lstm_language_model.main(
        [*language_model_flags, "--compare", "--steps=120", "--learning_rate=0.03"]
    )
    full, sampled = (results[kind]["perplexity"] for kind in ("full", "sampled"))
    # The start has the unigram model's perplexity, about 30; the rule alone would give about 6.
    assert full < 15
    assert sampled < 1.1 * full
    printed = capsys.readouterr().out
    assert f"sampled / full: perplexity {sampled / full:.3f}" in printed
    assert f"with 26 of {VOCAB_SIZE} classes sampled" in printed
    assert printed.count(" -> ") == 8


@pytest.mark.slow
def test_adaptive_language_model_learns(language_model_flags):
    results = lstm_language_model.main(
        [*language_model_flags, "--head=adaptive", "--steps=60", "--learning_rate=0.03"]
    )
    assert set(results) == {"adaptive"}
    assert results["adaptive"]["perplexity"] < 20


@pytest.mark.parametrize("kind", ["adaptive", "full", "sampled"])
def test_language_model_heads_start_as_the_unigram_model(language_model_flags, kind):
    options = language_model_options(language_model_flags)
    counts = np.arange(VOCAB_SIZE, 0, -1)
    head = lstm_language_model.make_head(kind, VOCAB_SIZE, options)
    lstm_language_model.start_from_counts(head, counts, WIDTH)
    log_p = head.log_prob(np.zeros([1, WIDTH], np.float32))[0]
    np.testing.assert_allclose(log_p, unigram_log_p(counts), atol=1e-5)


def test_language_model_heads_are_compared_from_the_same_weights(language_model_flags):
    options = language_model_options(language_model_flags)
    full, sampled = (
        lstm_language_model.make_model(
            lstm_language_model.make_head(kind, VOCAB_SIZE, options), VOCAB_SIZE, options
        )
        for kind in ("full", "sampled")
    )
    for model in (full, sampled):
        model(np.zeros([1, 1], np.int32))
    for one, other in zip(full.backbone.get_weights(), sampled.backbone.get_weights()):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(full.head.tables[0], sampled.head.kernel)
    assert full.count_params() == sampled.count_params()


def test_sampled_language_model_is_evaluated_exactly(language_model_flags):
    options = language_model_options(language_model_flags)
    head = lstm_language_model.make_head("sampled", VOCAB_SIZE, options)
    model = lstm_language_model.make_model(head, VOCAB_SIZE, options)
    rng = np.random.default_rng(4)
    inputs, targets = rng.integers(VOCAB_SIZE, size=[2, 24, 7])
    model(inputs)
    head.bias.assign(rng.normal(size=VOCAB_SIZE))
    result = model.evaluate(inputs, targets, batch_size=5, verbose=0, return_dict=True)
    hidden = model.backbone(inputs).numpy()
    logits = hidden @ head.kernel.numpy().T + head.bias.numpy()
    normaliser = np.log(np.sum(np.exp(logits), -1))
    nll = normaliser - np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(result["loss"], nll.mean(), rtol=1e-5)
    np.testing.assert_allclose(result["perplexity"], np.exp(nll.mean()), rtol=1e-5)


@pytest.mark.slow
def test_tied_functional_model():
    result = tied_functional_model.main(["--epochs=8", "--num_texts=256", "--learning_rate=0.02"])
    assert result["functional_same"] and result["same"] and result["tied"]
    assert result["functional_accuracy"] > 0.9 and result["accuracy"] > 0.9
    for losses in (result["functional_losses"], result["losses"]):
        assert losses[-1] < 0.3 * losses[0]
    # Tables and projections of both layers, Dense, biases, and the head's columns for tails.
    tables = 5 * 32 + 10 * 16 + 10 * 8 + 5 * 4 + (32 + 16 + 8 + 4) * 32
    rest = 33 * 32 + 30 + 3 * 33
    assert result["parameters"] == result["functional_parameters"] == (tables + rest,) * 2
    assert result["untied_parameters"] == 2 * tables + rest


@pytest.mark.slow
def test_recommenders_beat_the_best_sellers():
    result = product_recommender.main(
        [
            "--num_items=1500",
            "--num_groups=20",
            "--steps=80",
            "--batch_size=32",
            "--num_held_out=64",
            "--num_sampled=100",
        ]
    )
    assert 0.05 < result["best_sellers"] < 0.3
    for kind in ("adaptive", "sampled"):
        assert result[kind]["recall"] > 1.5 * result["best_sellers"], kind


@pytest.mark.parametrize("kind", ["adaptive", "sampled"])
def test_recommenders_start_with_the_best_sellers(kind):
    rng = np.random.default_rng(5)
    counts = rng.permutation(np.arange(1, 42))
    order = product_recommender.id_order_from_counts(counts)
    options = product_recommender.make_parser().parse_args(
        ["--num_items=41", f"--width={WIDTH}", "--cutoffs=5,17", "--num_sampled=7"]
    )
    head = product_recommender.make_head(kind, order, options)
    product_recommender.start_from_counts(head, counts, order, WIDTH)
    hidden = np.zeros([1, WIDTH], np.float32)
    np.testing.assert_allclose(head.log_prob(hidden)[0], unigram_log_p(counts), atol=1e-5)
    np.testing.assert_array_equal(head.top_k(hidden, 20).ids[0], order[:20])


def test_sessions_follow_the_rule():
    rng = np.random.default_rng(6)
    shop = product_recommender.make_shop(503, 7, rng)
    sessions = product_recommender.draw_sessions(shop, 2000, 4, rng)
    assert sessions.shape == (2000, 4)
    place = np.argsort(shop.ids)[sessions]
    group = np.searchsorted(shop.bounds, shop.ends[place]) - 1
    follows = np.mean(shop.successors[group[:, :-1]] == group[:, 1:])
    # And by chance where the next group is any.
    assert 0.9 < follows < 0.95
    counts = np.bincount(sessions.ravel(), minlength=503)
    # Few products sell most, and they are not the first.
    best = product_recommender.id_order_from_counts(counts)[:50]
    assert counts[best].sum() > 0.4 * counts.sum()
    assert 150 < best.mean() < 350


@pytest.mark.parametrize(
    "example, flags, message",
    [
        (lstm_language_model, ["--steps=0"], "argument --steps: must be from 1"),
        (lstm_language_model, ["--seed=-1"], "argument --seed: must be from 0"),
        (lstm_language_model, ["--cutoffs=a"], "argument --cutoffs: invalid"),
        (lstm_language_model, ["--jit_compile=maybe"], "argument --jit_compile: invalid"),
        (lstm_language_model, ["--data_dir=/nowhere"], "The data_dir /nowhere does not exist"),
        (tied_functional_model, ["--epochs=x"], "argument --epochs: invalid int value: 'x'"),
        (product_recommender, ["--num_items=20"], "argument --num_items: must be from 21"),
        (product_recommender, ["--learning_rate=nan"], "argument --learning_rate: must be"),
        (
            product_recommender,
            ["--num_items=50", "--steps=10", "--cutoffs=9,3"],
            "Cutoffs must rise",
        ),
        (
            product_recommender,
            ["--num_items=50", "--steps=10"],
            "num_sampled must be an integer from 1 to",
        ),
    ],
)
def test_bad_flags_end_in_one_line(example, flags, message, capsys):
    with pytest.raises(SystemExit) as ended:
        example.main(flags)
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "error: " in last and message in last


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--cutoffs=17,5", "Cutoffs must rise"),
        (
            "--head=sampled --num_sampled=40",
            f"num_sampled must be an integer from 1 to num_classes={VOCAB_SIZE}",
        ),
        ("--batch_size=9999", "batch_size streams"),
    ],
)
def test_flags_that_do_not_fit_the_corpus(language_model_flags, flag, message, capsys):
    with pytest.raises(SystemExit) as ended:
        lstm_language_model.main([*language_model_flags, *flag.split()])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_help_names_every_default(capsys):
    for example in (lstm_language_model, product_recommender, tied_functional_model):
        for action in example.make_parser()._actions:
            assert action.help
        with pytest.raises(SystemExit) as ended:
            example.main(["--help"])
        assert ended.value.code == 0
    assert "default" in capsys.readouterr().out


def test_seeds_are_not_left_to_chance(language_model_flags):
    options = language_model_options([*language_model_flags, "--seed=5"])
    keras.utils.set_random_seed(1)
    first, second = (
        lstm_language_model.make_head(kind, VOCAB_SIZE, options) for kind in ("sampled", "sampled")
    )
    for one, other in zip(first.draw_sample(), second.draw_sample()):
        np.testing.assert_array_equal(one, other)
