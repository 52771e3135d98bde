"""The command line: every flag has a field, every field a flag; recipes are as published."""

import contextlib
import dataclasses
import json
import pathlib

import pytest
from absl import flags as absl_flags
from absl.testing import flagsaver

import flags
from flag_groups import inspection, text, training
from flag_groups import model as model_flags
from transformer_xl import ModelConfig, TrainConfig

ROOT = pathlib.Path(flags.__file__).parent
CONFIGS = ROOT / "configs"
SOURCES = [*ROOT.glob("*.py"), *ROOT.glob("modes/*.py"), *ROOT.glob("flag_groups/*.py")]
MODULES = (flags, model_flags, inspection, text, training)


def our_flags():
    by_module = absl_flags.FLAGS.flags_by_module_dict()
    return [flag for module in MODULES for flag in by_module[module.__name__]]


def parse(*arguments):
    """The two configurations of a command line; the vocabulary size has no flag."""
    with flagsaver.flagsaver():
        absl_flags.FLAGS(["train.py", *arguments])
        return flags.model_config(267_735), flags.train_config()


def test_every_field_has_a_flag_with_its_default():
    model, train = parse()
    assert model == ModelConfig(267_735)
    assert train == TrainConfig()
    ours = {flag.name for flag in our_flags()}
    for config in (ModelConfig, TrainConfig):
        names = {field.name for field in dataclasses.fields(config)} - {"vocab_size"}
        assert names <= ours, names - ours


def test_every_flag_is_read():
    """A flag that nothing reads is worse than none."""
    read = "".join(path.read_text() for path in SOURCES)
    fields = {f.name for c in (ModelConfig, TrainConfig) for f in dataclasses.fields(c)}
    for flag in our_flags():
        assert flag.name in fields or f"{flag.name.upper()}.value" in read, flag.name


@pytest.mark.parametrize(
    ("argument", "name", "value"),
    [
        ("--cutoffs=20000,40000,200000", "cutoffs", (20000, 40000, 200000)),
        ("--cutoffs=", "cutoffs", ()),
        ("--noforce_projection", "force_projection", False),
        ("--tie_projections=all", "tie_projections", (True,)),
        ("--same_length", "same_length", True),
        ("--head_dim=41", "head_dim", 41),
    ],
)
def test_values_become_the_fields(argument, name, value):
    assert getattr(parse(argument)[0], name) == value


def test_a_run_is_repeated_by_its_flagfile(tmp_path):
    arguments = [
        f"--workdir={tmp_path}/run",
        "--cutoffs=7,19",
        "--div_val=2",
        "--nountie_position_biases",
        "--learning_rate=0.00025",
        "--eval_same_length",
        "--seed=3",
    ]
    with flagsaver.flagsaver():
        absl_flags.FLAGS(["train.py", *arguments])
        text, expected = flags.as_flagfile(), (flags.model_config(100), flags.train_config())
    (tmp_path / "flags.txt").write_text(text)
    with flagsaver.flagsaver():
        absl_flags.FLAGS(["train.py", f"--flagfile={tmp_path}/flags.txt"])
        assert (flags.model_config(100), flags.train_config()) == expected
        assert flags.as_flagfile() == text
    # The same, with the command line's own flags before the file's.
    with flagsaver.flagsaver():
        absl_flags.FLAGS(["train.py", "--seed=5"])
        flags.take_missing_from(text.splitlines())
        assert flags.model_config(100) == expected[0]
        assert flags.train_config() == dataclasses.replace(expected[1], seed=5)


@pytest.mark.parametrize(
    ("arguments", "kind", "refused"),
    [
        (["--corpus=lm1b", "--roll_streams"], None, True),
        (["--corpus=lm1b", "--roll_streams", "--vocabulary=sentencepiece"], None, True),
        (["--corpus=lm1b", "--roll_streams", "--vocabulary=byte"], None, False),
        (["--corpus=lm1b", "--roll_streams"], "character", False),
        (["--corpus=lm1b"], None, False),
        (["--corpus=text", "--roll_streams"], None, False),
    ],
)
def test_streams_of_sentences_are_not_rolled(arguments, kind, refused):
    told = pytest.raises(ValueError, match="--roll_streams is not for --corpus=lm1b.*Leave it out")
    with flagsaver.flagsaver(), told if refused else contextlib.nullcontext():
        absl_flags.FLAGS(["train.py", *arguments])
        flags.check_streams(kind)


# references.md's table, from the original PyTorch scripts (kimiyoung/transformer-xl).
PUBLISHED = {
    "wikitext103_base": (
        dict(
            num_layers=16,
            model_dim=410,
            embedding_dim=410,
            num_heads=10,
            head_dim=41,
            feed_forward_dim=2100,
            dropout=0.1,
            attention_dropout=0.0,
            cutoffs=(20000, 40000, 200000),
            div_val=1,
            memory_length=150,
        ),
        dict(
            batch_size=60,
            segment_length=150,
            max_steps=200_000,
            warmup_steps=0,
            eval_segment_length=64,
            eval_memory_length=640,
            eval_clamp_length=400,
            eval_same_length=True,
        ),
        151_119_838,
    ),
    "wikitext103_large": (
        dict(
            num_layers=18,
            model_dim=1024,
            embedding_dim=1024,
            num_heads=16,
            head_dim=64,
            feed_forward_dim=4096,
            dropout=0.2,
            attention_dropout=0.2,
            cutoffs=(20000, 40000, 200000),
            div_val=4,
            memory_length=384,
        ),
        dict(
            batch_size=128,
            segment_length=384,
            max_steps=4_000_000,
            warmup_steps=16_000,
            eval_segment_length=128,
            eval_memory_length=1600,
            eval_clamp_length=1000,
            eval_same_length=True,
        ),
        285_205_322,
    ),
}
COMMON_MODEL = dict(
    tie_tables=True,
    tie_projections=(False, True, True, True),
    untie_position_biases=True,
    layer_norm="post",
    layer_norm_epsilon=1e-5,
    final_norm=False,
    init_stddev=0.02,
    projection_init_stddev=0.01,
    clamp_length=-1,
    same_length=False,
)
COMMON_TRAIN = dict(
    optimizer="adam",
    learning_rate=2.5e-4,
    schedule="cosine",
    cosine_from="start",
    min_learning_rate_ratio=0.0,
    clip_norm=0.25,
    eval_batch_size=10,
)


def differences(config, expected):
    return {n: getattr(config, n) for n, v in expected.items() if getattr(config, n) != v}


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_recipes_are_the_published_ones(recipe):
    model, train = parse(f"--flagfile={CONFIGS / recipe}.flags")
    expected_model, expected_train, _ = PUBLISHED[recipe]
    assert not differences(model, COMMON_MODEL | expected_model)
    assert not differences(train, COMMON_TRAIN | expected_train)


def count_parameters(config: ModelConfig) -> int:
    """Counted by hand from the paper's equations, without making the weights."""
    sizes = np_diff((0, *config.cutoffs, config.vocab_size))
    widths = [config.embedding_dim // config.div_val**i for i in range(len(sizes))]
    d, inner, f = config.model_dim, config.num_heads * config.head_dim, config.feed_forward_dim
    tables = sum(s * e for s, e in zip(sizes, widths))
    projected = config.div_val > 1 or config.embedding_dim != d
    projections = sum(e * d for e in widths) if projected else 0
    own = sum(e * d for e, tied in zip(widths, config.tie_projections) if not tied)
    head = config.vocab_size + len(config.cutoffs) * (widths[0] + 1) + (own if projected else 0)
    biases = 2 * inner * (config.num_layers if config.untie_position_biases else 1)
    layer = 5 * d * inner + 2 * d + (2 * d * f + f + d) + 2 * d
    return tables + projections + head + config.num_layers * layer + biases


def np_diff(edges):
    return [high - low for low, high in zip(edges, edges[1:])]


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_recipes_have_the_published_number_of_parameters(recipe):
    model, _ = parse(f"--flagfile={CONFIGS / recipe}.flags")
    assert count_parameters(model) == PUBLISHED[recipe][2]


def test_small_recipe_counts():
    model, train = parse(f"--flagfile={CONFIGS}/wikitext2_small.flags")
    assert count_parameters(dataclasses.replace(model, vocab_size=33_278)) == 5_816_928
    assert train.max_steps == 2039
    assert model.memory_start == "zeros"


def test_without_flags_the_demo_is_trained(tmp_path):
    import train

    with flagsaver.flagsaver():
        train.parse_flags(["train.py", f"--workdir={tmp_path}"])
        demo = parse(f"--flagfile={CONFIGS}/demo.flags")
        assert (flags.model_config(267_735), flags.train_config()) == demo
        assert flags.CORPUS.value == "sotu"
        assert flags.workdir() == str(tmp_path)
    with flagsaver.flagsaver():
        train.parse_flags(["train.py", "--corpus=text", "--data_dir=somewhere"])
        assert flags.train_config() == TrainConfig()


def test_the_record_of_a_run_is_json(tmp_path):
    from transformer_xl.training.workdir import RunRecord, read_record

    model, train = parse("--cutoffs=5,9")
    record = RunRecord(model, train, {"corpus": "sotu", "fingerprint": "x"})
    record.write(str(tmp_path))
    assert read_record(str(tmp_path)) == record
    assert json.loads((tmp_path / "config.json").read_text())["model"]["cutoffs"] == [5, 9]
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        read_record(str(tmp_path))
