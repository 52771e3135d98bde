"""--mode=train: trains, or goes on, and evaluates."""

import contextlib
import os
import textwrap

import keras

import flags
from data_utils import TrainSegments, kind_of
from flag_groups.inspection import DRY_RUN, PROFILE_STEPS
from modes import dry_run
from modes.evaluation import check_segment_length, eval_batches, split_report
from modes.generation import continued
from modes.lost_workers import lost_workers_end_the_run
from modes.run_inputs import chosen_cutoffs, given_weights, model_settings, prepared
from modes.terminal import STOPPED, fail, say, signals_end_at_once
from transformer_xl import TransformerXL
from transformer_xl.config import evaluation_lengths
from transformer_xl.strict_json import strict_json
from transformer_xl.training.best_choice import choose_best
from transformer_xl.training.checkpoints import Checkpoints
from transformer_xl.training.devices import compiles_with_xla, device_name, resolve_precision
from transformer_xl.training.distribute import make_replicas
from transformer_xl.training.evaluate import Evaluator
from transformer_xl.training.loop import train
from transformer_xl.training.memory_use import forget_kernels, lean_first_call
from transformer_xl.training.no_report import NoReporter
from transformer_xl.training.optimizer import make_optimizer
from transformer_xl.training.profile import Profiled, profile_range
from transformer_xl.training.report import Reporter, results_table
from transformer_xl.training.steps import make_train_step
from transformer_xl.training.stop import StoppedError, StopSignal
from transformer_xl.training.train_state import TrainState
from transformer_xl.training.workdir import (
    RunRecord,
    check_new,
    check_writable,
    read_record,
    write_atomically,
)
from transformer_xl.training.workdir_lock import training_alone

_SAMPLE_WORDS = 60


def set_up():
    """Checks everything that can be checked, prepares the data; returns what trains."""
    directory, train_config = flags.workdir(), flags.train_config()
    # First of all: other machines are met before TensorFlow does anything.
    with signals_end_at_once():
        replicas = make_replicas("one" if DRY_RUN.value else train_config.distribution, say)
    with contextlib.ExitStack() as holding, lost_workers_end_the_run(replicas, directory):
        replicas.check_batch_size(train_config.batch_size, train_config.accumulate_steps)
        if replicas.chief:
            check_writable(directory)
            if not DRY_RUN.value:
                holding.enter_context(training_alone(directory))
        train_or_tell = _set_up(directory, train_config, replicas)
        held = holding.pop_all()

    def run():
        with held:
            train_or_tell()

    return run


def _set_up(directory, train_config, replicas):
    tell = say if replicas.chief else _silent
    profile_range(PROFILE_STEPS.value)
    record = read_record(directory)
    if record is None and replicas.chief and not DRY_RUN.value:
        check_new(directory)
    resolved = resolve_precision(train_config, record and record.train)
    with replicas.scope():
        model, vocabulary = given_weights(resolved)
    flags.check_streams(None if vocabulary is None else kind_of(vocabulary))
    chosen = record.model.cutoffs if record else ()
    model_config = flags.model_config(automatic_cutoffs=chosen)
    eval_lengths = evaluation_lengths(model_config, train_config)
    if record is not None:
        record.check(directory, model_config, train_config)
    train_config = resolved
    tell(f"run directory {directory}")
    if not replicas.chief:
        with signals_end_at_once():
            replicas.wait()  # until the chief has prepared the text
    data = prepared(directory, vocabulary, tell)
    if replicas.chief:
        replicas.wait()
    if record is None:
        chosen = chosen_cutoffs(data, model_config, train_config, tell)
    model_config = flags.model_config(data.vocabulary.size, chosen)
    check_segment_length(train_config, data, data.splits[1:], 1)
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
    if DRY_RUN.value:
        return lambda: _dry_run(model_config, train_config, eval_lengths, data, segments, model)
    if replicas.chief:
        described["vocabulary"] = data.vocabulary.fingerprint()
        RunRecord(model_config, train_config, described).write(directory)
        write_atomically(os.path.join(directory, "flags.txt"), flags.as_flagfile())
        data.vocabulary.save(os.path.join(directory, "vocabulary"))

    def run():
        with lost_workers_end_the_run(replicas, directory):
            _train(
                directory, model_config, train_config, eval_lengths, data, segments, model, replicas
            )

    return run


def _dry_run(model_config, config, eval_lengths, data, segments, model):
    keras.utils.set_random_seed(config.seed)
    if model is None:
        model = TransformerXL(model_config, **model_settings(config))
    jit_compile = compiles_with_xla(config.jit_compile, not model.drops)
    train_step = make_train_step(
        model,
        make_optimizer(config),
        config.clip_norm,
        jit_compile,
        config.accumulate_steps,
        _train_state(model, config),
    )
    forget_kernels(config.seed)
    evaluator = Evaluator(model, config, eval_lengths, eval_batches(data))
    dry_run.report(model, config, data, segments, lean_first_call(train_step), evaluator)


def _train(directory, model_config, config, eval_lengths, data, segments, model, replicas):
    tell = say if replicas.chief else _silent
    with replicas.scope():
        keras.utils.set_random_seed(config.seed)
        if model is None:
            model = TransformerXL(model_config, **model_settings(config))
        optimizer = make_optimizer(config)
        jit_compile = compiles_with_xla(config.jit_compile, not model.drops)
        state = _train_state(model, config)
        train_step = make_train_step(
            model, optimizer, config.clip_norm, jit_compile, config.accumulate_steps, state
        )
    forget_kernels(config.seed)
    checkpoints = Checkpoints(
        os.path.join(directory, "checkpoints"), model, optimizer, state.variables, say=tell
    )
    memory = model.initial_memory(config.batch_size)
    step = checkpoints.last_step()
    stop = StopSignal()
    # Where others wait for the chief it is not to leave on its own.
    leave = None if replicas.multi_worker else stop.check
    evaluator = Evaluator(model, config, eval_lengths, eval_batches(data), leave)
    tell(
        f"{model.count_params():,} parameters, {data.vocabulary.size:,} types, "
        f"{len(data.arrays['train']):,} training tokens, {segments.steps_per_epoch:,} steps an "
        f"epoch, {config.precision}{' with XLA' if jit_compile else ''} on {device_name()}"
        f"{f', {replicas.count} replicas' if replicas.count > 1 else ''}"
    )
    if step:
        tell(f"going on after step {step:,}")
    reporter = Reporter(directory, step, config.max_steps) if replicas.chief else NoReporter()
    profiled = profile_range(PROFILE_STEPS.value)
    if profiled is not None:
        train_step = Profiled(train_step, profiled, step, os.path.join(directory, "profile"))
    done = train(
        config,
        train_step,
        segments.dataset,
        segments.starts_epoch,
        lambda: evaluator.result("valid", config.eval_steps),
        memory,
        checkpoints,
        reporter,
        state,
        stop.requested,
        segments.in_document if config.reset_memory else None,
        replicas,
    )
    if profiled is not None:
        train_step.close()
    reporter.draw()
    reporter.close()
    if done and replicas.chief:
        try:
            _results(directory, config, checkpoints, evaluator, reporter, data, model)
        except StoppedError:
            done = False
    if not done:
        fail("stopped by a signal; the state is saved: start again to go on", STOPPED)
    stop.restore()
    replicas.wait()  # all processes end together


def _results(directory, config, checkpoints, evaluator, reporter, data, model):
    if config.eval_steps:
        full = choose_best(checkpoints, lambda: evaluator.result("valid").nll, say)
        known = full[int(checkpoints.best_step)]
    else:
        checkpoints.restore_best()
        known = float(checkpoints.best_nll)  # validated in full, they need not be again
    say(f"evaluating the best weights, those of step {int(checkpoints.best_step):,}")
    results = {"valid": split_report(evaluator, data, "valid", nll=known)}
    if "test" in data.splits:
        results["test"] = split_report(evaluator, data, "test")
    else:
        say("the corpus has no test split")
    results["best_step"] = int(checkpoints.best_step)
    results["parameters"] = model.count_params()
    results["train_seconds"] = reporter.train_seconds()
    write_atomically(os.path.join(directory, "result.json"), strict_json(results, indent=2) + "\n")
    say(results_table({split: results[split] for split in data.splits if split in results}))
    sample = _sample(model, data.vocabulary, config.seed)
    write_atomically(os.path.join(directory, "sample.txt"), sample + "\n")
    say(f"\na sample of {_SAMPLE_WORDS} words, also in {directory}/sample.txt:")
    say(textwrap.indent(textwrap.fill(sample, 90), "    "))
    say(f"\nplot of the losses: {reporter.plot_path}")
    say(f"results: {directory}/result.json")


def _train_state(model, config) -> TrainState:
    scale = config.loss_scale if config.precision == "float16" else 0.0
    return TrainState(model, config.ema_decay, scale, config.loss_scale_growth_steps)


def _silent(line: str):
    del line


def _sample(model, vocabulary, seed) -> str:
    ids = continued(model, vocabulary, (), seed, 3 * _SAMPLE_WORDS, top_p=0.95)
    return " ".join(vocabulary.decode(ids[0]).split()[:_SAMPLE_WORDS])
