"""Trains HuggingFace's Transformer-XL on WikiText-2: the peer of configs/wikitext2_small.flags.

    python benchmarks/huggingface_wikitext2.py --data=wikitext-2.zip --seed=1 --output=peer.json

Needs an environment of its own with torch==2.13.0, transformers==4.35.2 and numpy<2; the model is
no longer in newer versions of transformers. The recipe is the one of that flagfile, with the last
weights and not the best: one epoch in 16 contiguous streams, memory carried, then validation and
test with 10 streams, where every token is scored exactly once and the first is predicted from
`<eos>`. Nothing of this project is imported.

Letters: B streams, L segment length, N tokens of a split.
"""

import argparse
import collections
import io
import json
import math
import pathlib
import platform
import time
import warnings
import zipfile

# Both libraries warn about each other's age and about interfaces that are not used here.
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

SEGMENT_LENGTH = 64
TRAIN_STREAMS = 16
EVAL_STREAMS = 10
LEARNING_RATE = 1e-3
WARMUP_STEPS = 200
CLIP_NORM = 0.25
REPORT_EVERY = 200

MODEL = {
    "n_layer": 4,
    "d_model": 256,
    "d_embed": 256,
    "n_head": 4,
    "d_head": 64,
    "d_inner": 1024,
    "cutoffs": [5000, 15000],
    "div_val": 4,
    # Table tying is this model's default; this ties the projections of all clusters but the first.
    "proj_share_all_but_first": True,
    "tie_word_embeddings": True,
    "untie_r": True,
    "pre_lnorm": False,
    "dropout": 0.1,
    "dropatt": 0.0,
    "mem_len": 64,
    # The defaults are 1,000 and True, after the published WikiText-103 model.
    "clamp_len": -1,
    "same_length": False,
    "init": "normal",
    "init_std": 0.02,
    "proj_init_std": 0.01,
    "layer_norm_epsilon": 1e-5,
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="zip, or folder with {train,valid,test}.txt")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, help="training steps (default: one epoch, 2,039)")
    parser.add_argument(
        "--eval",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="score validation and test after training",
    )
    parser.add_argument("--output", help="where to write the result as JSON")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    corpus, eos = load_corpus(arguments.data)
    vocab_size = 1 + max(int(ids.max()) for ids in corpus.values())
    model = build_model(vocab_size, eos)
    parameters = sum(p.numel() for p in model.parameters())
    sizes = ", ".join(f"{split} {len(ids):,}" for split, ids in corpus.items())
    print(f"vocabulary {vocab_size:,}, parameters {parameters:,}, tokens: {sizes}", flush=True)

    result = {
        "settings": {**MODEL, "vocab_size": vocab_size, "parameters": parameters},
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "seed": arguments.seed,
        "threads": arguments.threads,
        "train": train(model, corpus["train"], arguments.steps),
    }
    if arguments.eval:
        for split in ("valid", "test"):
            result[split] = evaluate(model, corpus[split], eos)
            print(
                f"{split}: perplexity {result[split]['perplexity']:.3f}, "
                f"nll {result[split]['nll']:.5f}, tokens {result[split]['tokens']:,}",
                flush=True,
            )
    if arguments.output:
        pathlib.Path(arguments.output).write_text(json.dumps(result, indent=2) + "\n")


def load_corpus(path):
    """Returns ({split: int64 [N]}, the id of <eos>); ids are sorted by frequency in training."""
    words = {split: read_words(path, split) for split in ("train", "valid", "test")}
    counts = collections.Counter(words["train"])
    # Ties go by the alphabet, so that the ids depend on nothing but the text.
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    ids = {word: i for i, word in enumerate(ordered)}
    # WikiText-2 has its own <unk>, and no word in the other splits that training lacks.
    corpus = {split: np.array([ids[w] for w in text], np.int64) for split, text in words.items()}
    return corpus, ids["<eos>"]


def read_words(path, split):
    """The whitespace-separated words of a split, with <eos> after every line, empty ones too."""
    path = pathlib.Path(path)
    if path.is_dir():
        names = [path / f"{split}.txt", path / f"wiki.{split}.tokens"]
        text = next(name for name in names if name.exists()).read_text(encoding="utf-8")
    else:
        with zipfile.ZipFile(path) as archive:
            endings = (f"{split}.txt", f"wiki.{split}.tokens")
            name = next(name for name in archive.namelist() if name.endswith(endings))
            text = archive.read(name).decode("utf-8")
    words = []
    # Not splitlines, which would also split at other separators that occur inside a line.
    for line in io.StringIO(text, newline="\n"):
        words += line.split()
        words.append("<eos>")
    return words


def build_model(vocab_size, eos):
    """The model with the library's own initial weights."""
    config = transformers.TransfoXLConfig(vocab_size=vocab_size, eos_token_id=eos, **MODEL)
    model = transformers.TransfoXLLMHeadModel(config)
    # Otherwise the nll of a segment comes sorted by cluster.
    model.crit.keep_order = True
    return model


def token_nll(model, inputs, targets, memory):
    """inputs and targets [B, L] to nll [B, L], and the new memory.

    The model's own call shifts the labels by one and so never scores the last input. The head
    shifts too; a column that it drops, before the first target and after the last state, undoes it.
    """
    output = model.transformer(inputs, mems=memory)
    hidden = output.last_hidden_state
    hidden = torch.cat([hidden, hidden[:, -1:]], dim=1)
    labels = torch.cat([targets[:, :1], targets], dim=1)
    return model.crit(hidden, labels).view(targets.shape), output.mems


def learning_rate(step, steps):
    """Linear warm-up times a cosine that starts at step 0; the first step is 1."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return LEARNING_RATE * min(1.0, step / WARMUP_STEPS) * cosine


def train(model, ids, steps):
    """One epoch at most; returns seconds, tokens per second and the losses between reports."""
    stream_length = len(ids) // TRAIN_STREAMS
    streams = torch.from_numpy(ids[: TRAIN_STREAMS * stream_length]).view(TRAIN_STREAMS, -1)
    epoch = (stream_length - 1) // SEGMENT_LENGTH
    steps = epoch if steps is None else steps
    if not 1 <= steps <= epoch:
        raise SystemExit(f"--steps must be between 1 and {epoch}. Received: {steps}")
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8)
    model.train()
    memory, losses, reports = None, [], []
    start = last = time.perf_counter()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        first = (step - 1) * SEGMENT_LENGTH
        inputs = streams[:, first : first + SEGMENT_LENGTH]
        targets = streams[:, first + 1 : first + 1 + SEGMENT_LENGTH]
        optimizer.zero_grad()
        nll, memory = token_nll(model, inputs, targets, memory)
        loss = nll.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        losses.append(loss.item())
        if step % REPORT_EVERY == 0 or step == steps:
            now = time.perf_counter()
            speed = len(losses) * inputs.numel() / (now - last)
            mean = sum(losses) / len(losses)
            reports.append({"step": step, "loss": mean, "tokens_per_second": speed})
            print(
                f"step {step:,} of {steps:,}: loss {mean:.4f}, perplexity {math.exp(mean):.1f}, "
                f"{speed:,.0f} tokens/s, {now - start:,.0f} s",
                flush=True,
            )
            losses, last = [], now
    seconds = time.perf_counter() - start
    tokens = steps * TRAIN_STREAMS * SEGMENT_LENGTH
    print(f"training: {seconds:,.1f} s, {tokens / seconds:,.0f} tokens/s", flush=True)
    return {
        "steps": steps,
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "reports": reports,
    }


@torch.no_grad()
def evaluate(model, ids, eos):
    """Scores every one of the N tokens once; a stream's first input is the token before it."""
    count = len(ids)
    stream_length = math.ceil(count / EVAL_STREAMS)
    # Whole segments; what is padded comes after a stream's last token, and has no weight.
    padded_length = math.ceil(stream_length / SEGMENT_LENGTH) * SEGMENT_LENGTH
    inputs = np.full((EVAL_STREAMS, padded_length), eos)
    targets = np.full((EVAL_STREAMS, padded_length), eos)
    weights = np.zeros((EVAL_STREAMS, padded_length))
    before = np.concatenate([[eos], ids[:-1]])
    for row in range(EVAL_STREAMS):
        part = slice(row * stream_length, min((row + 1) * stream_length, count))
        length = part.stop - part.start
        inputs[row, :length] = before[part]
        targets[row, :length] = ids[part]
        weights[row, :length] = 1.0

    model.eval()
    start = time.perf_counter()
    memory, total = None, 0.0
    for first in range(0, padded_length, SEGMENT_LENGTH):
        part = slice(first, first + SEGMENT_LENGTH)
        nll, memory = token_nll(
            model, torch.from_numpy(inputs[:, part]), torch.from_numpy(targets[:, part]), memory
        )
        total += float((nll.double() * torch.from_numpy(weights[:, part])).sum())
    tokens = int(weights.sum())
    if tokens != count:
        raise RuntimeError(f"scored {tokens} tokens of {count}")
    return {
        "nll": total / tokens,
        "perplexity": math.exp(total / tokens),
        "tokens": tokens,
        "seconds": time.perf_counter() - start,
    }


if __name__ == "__main__":
    main()
