"""Run by another interpreter, with transformers 4.35.2 and torch or TensorFlow 2.15 with Keras 2.

    huggingface_peer.py torch DIRECTORY           saves random models in each of their formats
    huggingface_peer.py keras DIRECTORY           the same as tf_model.h5
    huggingface_peer.py score DIRECTORY MODELS    losses of other models on their tokens

A model's losses on four segments go into `<case>/expected.npz`. Nothing here is of this project.
"""

import json
import os
import sys

import numpy as np
from huggingface_cases import BATCH, CASES, KERAS_CASES, LENGTH, SEGMENTS, SIZES
from transformers import TransfoXLConfig


def config_of(case):
    return TransfoXLConfig(**{**SIZES, **CASES[case]})


def random_tokens(case):
    draw = np.random.default_rng(len(case))
    frequencies = 1 / (np.arange(SIZES["vocab_size"]) + 2.0)
    shape = (BATCH, SEGMENTS * LENGTH + 1)
    return draw.choice(SIZES["vocab_size"], shape, p=frequencies / frequencies.sum())


def segments(tokens):
    for start in range(0, SEGMENTS * LENGTH, LENGTH):
        yield tokens[:, start : start + LENGTH], tokens[:, start + 1 : start + LENGTH + 1]


def random_value(draw, name, shape):
    centre = 1.0 if "layer_norm" in name and name.endswith(("weight", "gamma")) else 0.0
    return (centre + 0.2 * draw.standard_normal(shape)).astype("float32")


def torch_nll(model, tokens):
    import torch

    losses, memory = [], None
    model.crit.keep_order = True
    with torch.no_grad():
        for inputs, targets in segments(torch.from_numpy(np.asarray(tokens, "int64"))):
            output = model.transformer(inputs, mems=memory)
            hidden, memory = output.last_hidden_state, output.mems
            # The softmax shifts by itself: a column more on both sides, which it drops.
            hidden = torch.cat([hidden, hidden[:, -1:]], 1)
            labels = torch.cat([inputs[:, :1], targets], 1)
            losses.append(model.crit(hidden, labels).view(targets.shape).numpy())
    return np.concatenate(losses, 1)


def make_torch(directory, case):
    import torch
    from transformers import TransfoXLLMHeadModel

    model = TransfoXLLMHeadModel(config_of(case)).eval()
    draw = np.random.default_rng(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.from_numpy(random_value(draw, name, tuple(weight.shape))))
    model.tie_weights()
    for kind in ("pytorch_model.bin", "model.safetensors", "legacy"):
        folder = os.path.join(directory, kind)
        model.save_pretrained(folder, safe_serialization=kind == "model.safetensors")
        if kind == "legacy":
            path = os.path.join(folder, "pytorch_model.bin")
            torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)
    tokens = random_tokens(case)
    np.savez(os.path.join(directory, "expected.npz"), tokens=tokens, nll=torch_nll(model, tokens))


def make_keras(directory, case):
    import tensorflow as tf
    from transformers import TFTransfoXLLMHeadModel

    config = config_of(case)
    model = TFTransfoXLLMHeadModel(config)
    tokens = random_tokens(case)
    model(tf.constant(tokens[:, :LENGTH]))
    draw = np.random.default_rng(2)
    for weight in model.weights:
        weight.assign(random_value(draw, weight.name.partition(":")[0], weight.shape))
    # Keras' version does not tie by itself.
    for i, tied in enumerate(config.tie_projs):
        model.crit.out_layers[i][0].assign(model.transformer.word_emb.emb_layers[i].weight)
        if tied:
            model.crit.out_projs[i].assign(model.transformer.word_emb.emb_projs[i])
    losses, memory = [], None
    for inputs, targets in segments(tokens):
        output = model(tf.constant(inputs), mems=memory)
        memory = output.mems
        scores = output.prediction_scores.numpy()
        losses.append(-np.take_along_axis(scores, targets[..., None], -1)[..., 0])
    model.save_pretrained(os.path.join(directory, "tf_model.h5"))
    np.savez(os.path.join(directory, "expected.npz"), tokens=tokens, nll=np.concatenate(losses, 1))


def score(directory, models):
    from transformers import TransfoXLLMHeadModel

    for case in os.listdir(models):
        model, report = TransfoXLLMHeadModel.from_pretrained(
            os.path.join(models, case), output_loading_info=True
        )
        tokens = np.load(os.path.join(directory, case, "expected.npz"))["tokens"]
        result = {
            "case": case,
            "nll": torch_nll(model.eval(), tokens).tolist(),
            "missing": report["missing_keys"],
            "unexpected": report["unexpected_keys"],
        }
        print(json.dumps(result))


if __name__ == "__main__":
    task, root, *rest = sys.argv[1:]
    if task == "score":
        score(root, *rest)
    for one in {"torch": CASES, "keras": KERAS_CASES}.get(task, ()):
        folder = os.path.join(root, one)
        os.makedirs(folder, exist_ok=True)
        {"torch": make_torch, "keras": make_keras}[task](folder, one)
