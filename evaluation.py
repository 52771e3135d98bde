"""Evaluator: scores a prepared corpus with a model, for train.py."""

import math

from data_utils import EvalSegments, PreparedCorpus, unigram_nll
from transformer_xl.training.devices import compiles_with_xla
from transformer_xl.training.evaluate import EvalResult, evaluate
from transformer_xl.training.steps import make_eval_step


class Evaluator:
    """Scores splits of a corpus with the evaluation's settings."""

    def __init__(self, model, config, lengths, data: PreparedCorpus):
        self._model, self._data = model, data
        self._settings = {
            "batch_size": config.eval_batch_size,
            "segment_length": config.eval_segment_length or config.segment_length,
            **lengths,
        }
        attention = {name: lengths[name] for name in ("clamp_length", "same_length")}
        jit_compile = compiles_with_xla(config.jit_compile, drops=False)
        self._step = make_eval_step(model, jit_compile, **attention)

    def result(self, split: str, max_segments: int = 0) -> EvalResult:
        """The loss on a split, or on its first segments."""
        settings = self._settings
        segments = EvalSegments(
            self._data.arrays[split],
            self._data.vocabulary.eos_id,
            settings["batch_size"],
            settings["segment_length"],
        )
        batches = segments.dataset()
        if max_segments:
            batches = batches.take(max_segments)
        memory = self._model.initial_memory(settings["batch_size"], settings["memory_length"])
        return evaluate(self._step, batches, memory)

    def report(self, split: str, nll: float | None = None) -> dict:
        """What result.json says of a split, whose loss may be known already."""
        data = self._data
        result = self.result(split) if nll is None else EvalResult(nll, len(data.arrays[split]))
        return {
            **result.figures(data.num_words[split], data.num_characters[split]),
            "unknown_rate": data.num_unknown[split] / result.tokens,
            "unigram_perplexity": math.exp(unigram_nll(data.counts, data.arrays[split])),
            **self._settings,
        }
