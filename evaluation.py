"""What joins a prepared corpus with the evaluation, for train.py."""

import math
from collections.abc import Callable

from data_utils import EvalSegments, PreparedCorpus, unigram_nll
from transformer_xl.training.evaluate import EvalResult, Evaluator


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
