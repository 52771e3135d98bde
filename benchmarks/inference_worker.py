"""Measures one implementation for `benchmarks.inference`, which starts this and asks.

    python -m benchmarks.inference_worker huggingface '{"model_dim": 410, ...}'

Implementations: `ours`; `ours with XLA`; `huggingface`, TransfoXL of transformers. A
request is a line of JSON, its answer another one:

    {"batch_size": 1, "memory_length": 640, "segment_length": 64, "segments": 4}
        seconds of the losses of 4 segments that follow one another
    {"batch_size": 8, "memory_length": 640, "prompt_length": 4, "num_tokens": 16, "top_k": 40}
        seconds of 16 tokens behind a prompt; the likeliest ones with a top_k of 0

Seconds are those of the clock, and of all processors together, which other processes disturb less.
With `"check": true`, `ours` answers instead how far it is from the uncached model, as
`benchmarks.inference_checks` says.

Weights are random; biases are the logarithms of Zipf's frequencies.
"""

import importlib.metadata
import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np

# Of projections: so large that logits differ by more than biases do, and a text of the likeliest
# tokens is not one token for ever.
STDDEV = 0.5


def shares(sizes: dict):
    """Zipf's frequencies of the ids, the commonest first: `[V]`."""
    frequencies = 1 / (np.arange(sizes["vocab_size"]) + 2.0)
    return frequencies / frequencies.sum()


def biases(sizes: dict):
    """Of a softmax with Zipf's frequencies: a list for the clusters, and the tails' columns."""
    frequencies = np.log(shares(sizes)).astype(np.float32)
    clusters = np.split(frequencies, sizes["cutoffs"])
    return clusters, np.array([np.log(np.exp(one).sum()) for one in clusters[1:]], np.float32)


class Ours:
    """This project's model; see the module."""

    def __init__(self, sizes: dict, jit_compile: bool | None):
        import keras

        from transformer_xl import ModelConfig, TransformerXL

        keras.utils.set_random_seed(1)
        config = ModelConfig(**sizes, projection_init_stddev=STDDEV)
        self.model = TransformerXL(config)
        clusters, columns = biases(sizes)
        for variable, value in zip(self.model.head.biases, clusters):
            variable.assign(value)
        self.model.head.cluster_bias.assign(columns)
        self.jit_compile = jit_compile
        self.compiled = {}
        self.library = "tensorflow"

    def evaluate(self, segments, memory_length):
        """Losses of segments `[B, L + 1]`, in turn."""
        import tensorflow as tf

        from transformer_xl.training.devices import stretches
        from transformer_xl.training.evaluate import evaluate, joined
        from transformer_xl.training.steps import make_eval_step

        batch_size, length = segments[0].shape
        jit_compile = bool(self.jit_compile)
        as_one, in_turn = stretches(jit_compile, batch_size, length - 1)
        key = (batch_size, length)
        if key not in self.compiled:
            step = make_eval_step(self.model, jit_compile, length - 1, in_turn)
            start = tf.function(self.model.initial_cache, autograph=False)
            self.compiled[key] = step, start
        step, start = self.compiled[key]
        cache = start(batch_size, memory_length, as_one * (length - 1))
        weights = tf.ones([batch_size, length - 1])
        batches = [(tokens[:, :-1], tokens[:, 1:], weights) for tokens in segments]
        batches = joined(batches, as_one * in_turn)
        return evaluate(step, batches, cache).nll

    def generate(self, prompt, memory_length, num_tokens, top_k):
        """The tokens written."""
        from transformer_xl.generate import stream

        decoder = self._decoder(memory_length, top_k)
        (tokens,) = stream(decoder, list(prompt), num_tokens, (1, 2), num_tokens)
        return tokens.numpy()

    def check(self, request, segments, prompt):
        """How far a task's numbers are from the uncached model's."""
        from benchmarks.inference_checks import check_evaluation, check_greedy

        memory_length = request["memory_length"]
        if segments is not None:
            return check_evaluation(self.model, segments, memory_length)
        decoder = self._decoder(memory_length, 0)
        return check_greedy(self.model, decoder, prompt, memory_length, request["num_tokens"])

    def _decoder(self, memory_length, top_k):
        from transformer_xl.decoding import Decoder, Sampling

        key = (memory_length, top_k)
        if key not in self.compiled:
            sampling = Sampling(temperature=float(top_k > 0), top_k=top_k)
            self.compiled[key] = Decoder(
                self.model,
                sampling,
                memory_length,
                jit_compile=self.jit_compile,
                fixed_weights=True,
            )
        return self.compiled[key]


class HuggingFace:
    """TransfoXL of transformers; see the module."""

    def __init__(self, sizes: dict):
        import torch
        from transformers import TransfoXLConfig, TransfoXLLMHeadModel

        self.torch, self.library = torch, "torch"
        torch.manual_seed(1)
        config = TransfoXLConfig(
            vocab_size=sizes["vocab_size"],
            cutoffs=list(sizes["cutoffs"]),
            div_val=sizes["div_val"],
            d_model=sizes["model_dim"],
            d_embed=sizes["model_dim"],
            n_head=sizes["num_heads"],
            d_head=sizes["model_dim"] // sizes["num_heads"],
            d_inner=sizes["feed_forward_dim"],
            n_layer=sizes["num_layers"],
            same_length=False,
            clamp_len=-1,
        )
        self.model = TransfoXLLMHeadModel(config).eval()
        clusters, columns = biases(sizes)
        with torch.no_grad():
            for layer, value in zip(self.model.crit.out_layers, clusters):
                layer.bias.copy_(torch.from_numpy(value))
            self.model.crit.cluster_bias.copy_(torch.from_numpy(columns))

    def evaluate(self, segments, memory_length):
        """Losses of segments `[B, L + 1]`, in turn."""
        torch = self.torch
        self.model.reset_memory_length(memory_length)
        memory, total = None, 0.0
        with torch.no_grad():
            for tokens in segments:
                tokens = torch.from_numpy(tokens.astype("int64"))
                output = self.model.transformer(tokens[:, :-1], mems=memory)
                hidden, memory = output.last_hidden_state, output.mems
                # The softmax shifts by itself: a column more on both sides, which it drops.
                hidden = torch.cat([hidden, hidden[:, -1:]], 1)
                total += float(self.model.crit(hidden, tokens).sum())
        return total

    def generate(self, prompt, memory_length, num_tokens, top_k):
        """The tokens written."""
        torch = self.torch
        self.model.reset_memory_length(memory_length)
        with torch.no_grad():
            tokens = self.model.generate(
                torch.from_numpy(prompt.astype("int64")),
                max_new_tokens=num_tokens,
                min_new_tokens=num_tokens,
                do_sample=top_k > 0,
                top_k=top_k or 50,
                pad_token_id=0,
            )
        return tokens[:, prompt.shape[1] :].numpy()


def answer(worker, sizes, request):
    """Seconds of what is asked, or what a check found."""
    draw = np.random.default_rng(request.get("repetition", 0))
    frequencies = shares(sizes)

    def tokens(length):
        shape = (request["batch_size"], length)
        return draw.choice(sizes["vocab_size"], shape, p=frequencies).astype(np.int32)

    segments = prompt = None
    if "segments" in request:
        segments = [tokens(request["segment_length"] + 1) for _ in range(request["segments"])]
    else:
        prompt = tokens(request["prompt_length"])
    if request.get("check"):
        return worker.check(request, segments, prompt)
    start, processor = time.perf_counter(), time.process_time()
    if segments is not None:
        worker.evaluate(segments, request["memory_length"])
    else:
        written = worker.generate(
            prompt, request["memory_length"], request["num_tokens"], request["top_k"]
        )
        if written.shape != (request["batch_size"], request["num_tokens"]):
            raise ValueError(f"It wrote {written.shape} tokens.")
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    return {"seconds": seconds, "processor_seconds": processor}


def main():
    """Answers until the standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    name, sizes = sys.argv[1], json.loads(sys.argv[2])
    worker = (
        HuggingFace(sizes)
        if name == "huggingface"
        else Ours(sizes, True if name == "ours with XLA" else None)
    )
    version = importlib.metadata.version(worker.library)
    print(json.dumps({"library": worker.library, "version": version}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(worker, sizes, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
