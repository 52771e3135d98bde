"""Trains, evaluates, samples and scores with Transformer-XL language models.

  python train.py                                  trains the demo on the built-in corpus
  python train.py --flagfile=configs/wikitext103_base.flags --data_dir=DIR
  python train.py --mode=prepare --corpus=wikitext103
  python train.py --mode=eval --workdir=DIR --eval_memory_length=640
  python train.py --mode=generate --workdir=DIR --prompt="The President"
  python train.py --mode=score --workdir=DIR --input_file=FILE
  python train.py --init_from=WEIGHTS --corpus=text --data_dir=DIR --workdir=DIR   goes on from them

Flags after a --flagfile override it. Started again with the same --workdir, training goes on where
it stopped. Exit codes: 0 done; 1 failed; 2 wrong use or bad input; 75 stopped by a signal after
saving.
"""

import json
import os
import pathlib
import sys
import textwrap

import keras
import numpy as np
from absl import app, logging
from absl import flags as absl_flags

import flags
from data_utils import TrainSegments, open_prepared, preparation_report
from evaluation import eval_batches, split_report
from run_inputs import (
    best_model,
    chosen_cutoffs,
    given_weights,
    model_settings,
    prepared,
    recorded_run,
    trained_model,
    workdir_for_results,
)
from scoring import TSV_HEADER, LineScorer, as_jsonl, as_tsv, open_lines
from transformer_xl import TransformerXL
from transformer_xl.config import evaluation_lengths
from transformer_xl.generate import generate
from transformer_xl.training.checkpoints import Checkpoints
from transformer_xl.training.devices import compiles_with_xla, device_name, resolve_precision
from transformer_xl.training.evaluate import Evaluator
from transformer_xl.training.loop import DivergedError, train
from transformer_xl.training.optimizer import make_optimizer
from transformer_xl.training.report import Reporter, results_table
from transformer_xl.training.steps import make_train_step
from transformer_xl.training.stop import StopSignal
from transformer_xl.training.workdir import RunRecord, read_record, write_atomically

absl_flags.adopt_module_key_flags(flags)

_DEMO = pathlib.Path(__file__).parent / "configs" / "demo.flags"
_STOPPED = 75
_SAMPLE_WORDS = 60


def main(argv):
    del argv  # refused by parse_flags
    if not absl_flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # TensorFlow tells much of its own saving
    try:
        run = {
            "train": _set_up_training,
            "eval": _set_up_eval,
            "generate": _set_up_generate,
            "score": _set_up_score,
            "prepare": _prepare_only,
        }[flags.MODE.value]()
    except (ValueError, OSError, ImportError) as error:
        _fail(f"error: {error}", 2)
    try:
        run()
    except DivergedError as error:
        _fail(f"error: {error}", 1)


def parse_flags(argv):
    """Parses the command line; wrong use ends with one message and exit code 2."""
    values = absl_flags.FLAGS
    # Given weights bring an architecture, so that the demo's has no place beside them.
    recipe = any(
        argument.lstrip("-").startswith(("flagfile", "init_from")) for argument in argv[1:]
    )
    try:
        rest = values(argv)
        if flags.MODE.value in ("train", "prepare") and not recipe and not values["corpus"].present:
            # No recipe and no corpus: the demo, with what is given on the command line.
            values.unparse_flags()
            rest = values([argv[0], f"--flagfile={_DEMO}", *argv[1:]])
        if rest[1:]:
            raise absl_flags.Error(f"Unknown arguments: {' '.join(rest[1:])}. Flags begin with --.")
    except absl_flags.Error as error:
        _fail(f"error: {error}\nRun `python train.py --help` to see the flags.", 2)
    return rest


def _set_up_training():
    """Checks everything that can be checked, prepares the data; returns what trains."""
    directory, train_config = flags.workdir(), flags.train_config()
    record = read_record(directory)
    resolved = resolve_precision(train_config, record and record.train)
    model, vocabulary = given_weights(resolved)
    chosen = record.model.cutoffs if record else ()
    model_config = flags.model_config(automatic_cutoffs=chosen)
    eval_lengths = evaluation_lengths(model_config, train_config)
    if record is not None:
        record.check(directory, model_config, train_config)
    train_config = resolved
    _say(f"run directory {directory}")
    data = prepared(directory, vocabulary, _say)
    if record is None:
        chosen = chosen_cutoffs(data, model_config, train_config, _say)
    model_config = flags.model_config(data.vocabulary.size, chosen)
    segments = TrainSegments(
        data.arrays["train"],
        train_config.batch_size,
        train_config.segment_length,
        documents=data.documents["train"],
        shuffle_documents=data.has_sentences,
        roll=train_config.roll_streams,
        variable_length=train_config.variable_length,
        seed=train_config.seed,
    )
    described = {"corpus": data.name, "fingerprint": data.fingerprint}
    if record is not None:
        record.check_data(directory, described)
    RunRecord(model_config, train_config, described).write(directory)
    write_atomically(os.path.join(directory, "flags.txt"), flags.as_flagfile())
    data.vocabulary.save(os.path.join(directory, "vocabulary"))
    return lambda: _train(
        directory, model_config, train_config, eval_lengths, data, segments, model
    )


def _prepare_only():
    directory, train_config = flags.workdir(), flags.train_config()
    _, vocabulary = given_weights(resolve_precision(train_config))
    model_config = flags.model_config()
    _say(f"run directory {directory}")
    data = prepared(directory, vocabulary, _say)
    chosen = chosen_cutoffs(data, model_config, train_config, _say)
    report = preparation_report(data, flags.model_config(data.vocabulary.size, chosen).cutoffs)
    return lambda: _say(f"\n{report}")


def _train(directory, model_config, config, eval_lengths, data, segments, model):
    keras.utils.set_random_seed(config.seed)
    if model is None:
        model = TransformerXL(model_config, **model_settings(config))
    optimizer = make_optimizer(config)
    jit_compile = compiles_with_xla(config.jit_compile, model.drops)
    train_step = make_train_step(model, optimizer, config.clip_norm, jit_compile)
    checkpoints = Checkpoints(os.path.join(directory, "checkpoints"), model, optimizer)
    memory = model.initial_memory(config.batch_size)
    step = checkpoints.last_step()
    evaluator = Evaluator(model, config, eval_lengths, eval_batches(data))
    _say(
        f"{model.count_params():,} parameters, {data.vocabulary.size:,} types, "
        f"{len(data.arrays['train']):,} training tokens, {segments.steps_per_epoch:,} steps an "
        f"epoch, {config.precision}{' with XLA' if jit_compile else ''} on {device_name()}"
    )
    if step:
        _say(f"going on after step {step:,}")
    reporter = Reporter(directory, step, config.max_steps)
    stop = StopSignal()
    done = train(
        config,
        train_step,
        lambda start: segments.dataset(start, config.max_steps - start),
        segments.starts_epoch,
        lambda: evaluator.result("valid", config.eval_steps),
        memory,
        checkpoints,
        reporter,
        stop.requested,
        segments.in_document if config.reset_memory else None,
    )
    reporter.draw()
    reporter.close()
    if not done:
        _fail("stopped by a signal; the state is saved: start again to go on", _STOPPED)
    stop.restore()

    _say(f"evaluating the best weights, those of step {int(checkpoints.best_step):,}")
    checkpoints.restore_best()
    # Validated in full, they need not be again.
    known = None if config.eval_steps else float(checkpoints.best_nll)
    results = {"valid": split_report(evaluator, data, "valid", nll=known)}
    if "test" in data.splits:
        results["test"] = split_report(evaluator, data, "test")
    else:
        _say("the corpus has no test split")
    results["best_step"] = int(checkpoints.best_step)
    results["parameters"] = model.count_params()
    results["train_seconds"] = reporter.train_seconds()
    write_atomically(os.path.join(directory, "result.json"), json.dumps(results, indent=2) + "\n")
    _say(results_table({split: results[split] for split in data.splits if split in results}))
    sample = _sample(model, data.vocabulary, config.seed)
    write_atomically(os.path.join(directory, "sample.txt"), sample + "\n")
    _say(f"\na sample of {_SAMPLE_WORDS} words, also in {directory}/sample.txt:")
    _say(textwrap.indent(textwrap.fill(sample, 90), "    "))
    _say(f"\nplot of the losses: {reporter.plot_path}")
    _say(f"results: {directory}/result.json")


def _set_up_eval():
    if flags.INIT_FROM.value is None:
        directory, record = recorded_run()
        config = resolve_precision(flags.train_config(), record.train)
        lengths = evaluation_lengths(record.model, config)
        data = open_prepared(os.path.join(directory, "data"))
        record.check_data(directory, {"corpus": data.name, "fingerprint": data.fingerprint})
        model = best_model(directory, record, config)
    else:
        directory, config = workdir_for_results(), resolve_precision(flags.train_config())
        model, vocabulary = given_weights(config)
        lengths = evaluation_lengths(model.config, config)
        data = prepared(directory, vocabulary, _say)
    splits = tuple(split for split in data.splits if split != "train")
    if flags.SPLIT.value != "all":
        splits = (flags.SPLIT.value,)
    if not set(splits) <= set(data.splits):
        raise ValueError(
            f"--split must be one that the corpus has: {', '.join(data.splits)}. "
            f"Received: {flags.SPLIT.value}."
        )

    def run():
        evaluator = Evaluator(model, config, lengths, eval_batches(data))
        results = {split: split_report(evaluator, data, split) for split in splits}
        path = os.path.join(directory, "eval.json")
        write_atomically(path, json.dumps(results, indent=2) + "\n")
        _say(results_table(results))
        _say(f"results: {path}")

    return run


def _set_up_generate():
    if flags.TOP_P.value <= 0:
        raise ValueError("--top_p must be above 0. Received: 0. Use --temperature=0 instead.")
    config, model, vocabulary = trained_model()
    prompt = vocabulary.encode_text(flags.PROMPT.value)
    unknown = vocabulary.unknown_tokens(flags.PROMPT.value)
    if unknown:
        _say(f"warning: not in the vocabulary, read as <unk>: {' '.join(unknown)}")

    def run():
        ids = _generate(
            model,
            vocabulary,
            prompt,
            config.seed,
            flags.NUM_TOKENS.value,
            num_samples=flags.NUM_SAMPLES.value,
            temperature=flags.TEMPERATURE.value,
            top_k=flags.TOP_K.value,
            top_p=flags.TOP_P.value,
            memory_length=config.eval_memory_length,
        )
        for number, row in enumerate(ids, start=1):
            if len(ids) > 1:
                print(f"--- {number}")
            print(vocabulary.decode([*prompt, *row]), flush=True)

    return run


def _set_up_score():
    path = flags.INPUT_FILE.value
    if path is not None and not os.path.isfile(path):
        raise FileNotFoundError(f"--input_file must be a text file. There is none at {path}.")
    config, model, vocabulary = trained_model()
    lengths = evaluation_lengths(model.config, config)
    scorer = LineScorer(model, vocabulary, config, lengths, flags.SCORE_CONTEXT.value)

    def run():
        write = as_tsv
        if flags.SCORE_FORMAT.value == "jsonl":
            write = as_jsonl
        else:
            print(TSV_HEADER)
        try:
            with open_lines(path) as lines:
                for score in scorer.scores(lines):
                    print(write(score), flush=True)
        except ValueError as error:
            _fail(f"error: {error}", 2)
        print(scorer.summary(), file=sys.stderr)

    return run


def _generate(model, vocabulary, prompt, seed, num_tokens, num_samples=1, **settings):
    """Texts that go on after a prompt, int `[num_samples, num_tokens]`."""
    # A text begins after the end of another.
    row = np.concatenate([[vocabulary.eos_id], prompt]).astype("int32")
    rows = np.tile(row, (num_samples, 1))
    return generate(model, rows, num_tokens, (seed, 0), **settings).numpy()


def _sample(model, vocabulary, seed) -> str:
    ids = _generate(model, vocabulary, (), seed, 3 * _SAMPLE_WORDS, top_p=0.95)
    return " ".join(vocabulary.decode(ids[0]).split()[:_SAMPLE_WORDS])


def _say(line: str):
    print(line, flush=True)


def _fail(message: str, code: int):
    print(message, file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
