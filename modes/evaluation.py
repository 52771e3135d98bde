"""--mode=eval, and what joins a prepared corpus with the evaluation."""

import math
import os
from collections.abc import Callable

from absl import flags as absl_flags

import flags
from data_utils import EvalSegments, PreparedCorpus, open_prepared, unigram_nll
from modes.run_inputs import (
    best_model,
    given_weights,
    prepared,
    recorded_run,
    workdir_for_results,
)
from modes.terminal import say
from transformer_xl.config import evaluation_lengths
from transformer_xl.strict_json import strict_json
from transformer_xl.training.breakdown import break_down, frequency_bands
from transformer_xl.training.breakdown_report import (
    breakdown_tables,
    draw_breakdown,
    settings_line,
)
from transformer_xl.training.devices import (
    compiles_with_xla,
    resolve_precision,
    use_threads_for_evaluation,
)
from transformer_xl.training.evaluate import EvalResult, Evaluator
from transformer_xl.training.report import results_table
from transformer_xl.training.workdir import check_writable, write_atomically


def set_up():
    """Checks what can be checked; returns what runs then."""
    # Before a run's flags stand in.
    length_is_given = bool(absl_flags.FLAGS["eval_segment_length"].present)
    if flags.INIT_FROM.value is None:
        directory, record = recorded_run()
        check_writable(directory, parts=())
        config = resolve_precision(flags.train_config(), record.train)
        # What trained with it is evaluated with it, also where its recipe is given again.
        length_is_given &= config.eval_segment_length != record.train.eval_segment_length
        lengths = evaluation_lengths(record.model, config)
        data = open_prepared(os.path.join(directory, "data"))
        record.check_data(directory, {"corpus": data.name, "fingerprint": data.fingerprint})
        _use_threads(config)
        model = best_model(directory, record, config)
    else:
        directory, config = workdir_for_results(), resolve_precision(flags.train_config())
        check_writable(directory, parts=())
        _use_threads(config)
        model, vocabulary = given_weights(config)
        lengths = evaluation_lengths(model.config, config)
        data = prepared(directory, vocabulary, say)
    splits = tuple(split for split in data.splits if split != "train")
    if flags.SPLIT.value != "all":
        splits = (flags.SPLIT.value,)
    if not set(splits) <= set(data.splits):
        raise ValueError(
            f"--split must be one that the corpus has: {', '.join(data.splits)}. "
            f"Received: {flags.SPLIT.value}."
        )
    if length_is_given:
        check_segment_length(config, data, splits, config.eval_batch_size)

    def run():
        evaluator = Evaluator(model, config, lengths, eval_batches(data))
        bands = frequency_bands(model.config.vocab_size, model.config.cutoffs)
        results = {}
        for split, parts in break_down(evaluator, splits, bands).items():
            row = split_report(evaluator, data, split, nll=parts.result.nll)
            results[split] = {**row, **parts.figures(bands)}
        write_results(directory, data.name, results, settings_line(evaluator.settings))

    return run


def check_segment_length(config, data, splits, streams: int):
    """Refuses segments of evaluation that no stream fills, which would be computed on filler.

    Args:
      config: the `TrainConfig`.
      data: the `PreparedCorpus`.
      splits: that are evaluated.
      streams: which a split is cut into; 1 for the least that can be asked for.

    Raises:
      ValueError: if they are given, and longer than all streams.
    """
    longest = max(-(-len(data.arrays[split]) // streams) for split in splits)
    if config.eval_segment_length is not None and config.eval_segment_length > longest:
        raise ValueError(
            f"eval_segment_length must be at most {longest}, the longest of {streams} streams of "
            f"{' and '.join(splits)}. Received: {config.eval_segment_length}."
        )


def write_results(directory: str, name: str, results: dict, settings: str):
    """Prints the results of splits, then writes them.

    Args:
      directory: where.
      name: of the corpus.
      results: by split, what eval.json says.
      settings: what they were evaluated with, in words.

    Raises:
      OSError: if they cannot be written.
    """
    path, picture = os.path.join(directory, "eval.json"), os.path.join(directory, "eval.png")
    # First of all, so that they are not lost where they cannot be written.
    say(breakdown_tables(results))
    say(results_table(results))
    say(f"with {settings}\n")
    write_atomically(path, strict_json(results, indent=2) + "\n")
    perplexities = ", ".join(f"{row['perplexity']:,.2f} ({s})" for s, row in results.items())
    draw_breakdown(results, f"{name}: perplexity {perplexities}\n{settings}", picture)
    say(f"results: {path}\npicture: {picture}")


def _use_threads(config):
    # Before the model: with its first variable TensorFlow's threads are there.
    length = config.eval_segment_length or config.segment_length
    use_threads_for_evaluation(
        compiles_with_xla(config.jit_compile), config.eval_batch_size, length
    )


def eval_batches(data: PreparedCorpus) -> Callable:
    """What makes the batches of a split, for `Evaluator`."""
    eos = data.vocabulary.eos_id
    return lambda split, *sizes: EvalSegments(data.arrays[split], eos, *sizes).dataset()


def split_report(
    evaluator: Evaluator, data: PreparedCorpus, split: str, nll: float | None = None
) -> dict:
    """What result.json says of a split, whose loss may be known already."""
    known = None if nll is None else EvalResult(nll, len(data.arrays[split]))
    result = known or evaluator.result(split)
    return {
        **result.figures(data.num_words[split], data.num_characters[split]),
        "unknown_rate": data.num_unknown[split] / result.tokens,
        "unigram_perplexity": math.exp(unigram_nll(data.counts, data.arrays[split])),
        **evaluator.settings,
    }
