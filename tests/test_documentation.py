"""What the documentation shows runs: examples of docstrings and the code of the pages."""

import doctest
import importlib
import pathlib
import pkgutil
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import adaptive

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODULES = sorted(module.name for module in pkgutil.iter_modules(adaptive.__path__, "adaptive."))
# What a page takes for granted.
GIVEN = """
hidden = tf.zeros([3, 16]); target = tf.constant([1, 2, 99])
inputs = targets = np.zeros([4, 3], np.int32); weights = np.ones([4, 3], np.float32)
optimizer = keras.optimizers.SGD()
"""


@pytest.fixture
def runs_eagerly():
    """What is shown is to run; compiled, each head and each model is held to numbers elsewhere."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name, runs_eagerly):
    module = importlib.import_module(name)
    names = {**vars(adaptive), "keras": keras, "np": np, "tf": tf, **vars(module)}
    results = doctest.testmod(module, extraglobs=names, optionflags=doctest.ELLIPSIS)
    assert not results.failed


def test_every_public_name_has_a_docstring():
    for name in adaptive.__all__:
        assert len(getattr(adaptive, name).__doc__ or "") > 40, name


@pytest.mark.parametrize("page", ["from_keras_adaptive_softmax", "from_pytorch"])
def test_pages(page, runs_eagerly):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 2
    names = {"keras": keras, "np": np, "tf": tf}
    exec(GIVEN, names)
    for block in blocks:
        # Small: the pages speak of 100,000 classes.
        block = re.sub(r"(\d)_000", r"\1", block).replace("512", "16")
        exec(block.replace("epochs=3", "epochs=1, verbose=0"), names)
        if "model" in names:
            # A later block may speak of the parts of an earlier one's model.
            names["head"] = getattr(names["model"], "head", None)
    assert names["model"](names["inputs"]).shape[:2] == (4, 3)


def test_the_readme():
    """Its code runs from top to bottom; here small, and without the time of tracing."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    names = {}
    for block in blocks:
        small = re.sub(r"(\d)_000", r"\1", block).replace("256", "32").replace("64", "3")
        small = small.replace('compile("adam",', 'compile("adam", run_eagerly=True,')
        exec(small.replace("ModelConfig(", "ModelConfig(num_layers=2, "), names)
    assert names["hidden"].shape[:2] == (3, 16)


def test_how_it_works(runs_eagerly):
    """The page runs from top to bottom, and compares as it goes."""
    text = (ROOT / "docs" / "how_it_works.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 8 and sum("assert " in block for block in blocks) == 6
    exec("".join(blocks), {})


def test_the_page_on_the_fused_loss():
    text = (ROOT / "docs" / "linear_cross_entropy.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(block, names)
    before = names["model"].table.numpy()
    names["model"].fit(np.ones([4, 8]), np.arange(4), verbose=0)
    assert np.any(before != names["model"].table.numpy())


def test_the_page_on_the_fused_loss_in_float16():
    """A step is as large as in float32, though the optimizer scales the loss."""
    text = (ROOT / "docs" / "linear_cross_entropy.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names, steps = {}, []
    exec(block, names)
    features, labels = np.ones([4, 8], "float32"), np.arange(4)
    for policy in ("float32", "mixed_float16"):
        keras.utils.set_random_seed(1)
        model = names["Classifier"](num_classes=9, width=32)
        model.backbone = keras.layers.Dense(32, "gelu", dtype=policy)
        optimizer = keras.optimizers.SGD(1.0)
        if policy == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        model.compile(optimizer, run_eagerly=True, auto_scale_loss=False)
        before = model.table.numpy()
        model.fit(features, labels, verbose=0)
        steps.append(model.table.numpy() - before)
    np.testing.assert_allclose(steps[1], steps[0], rtol=0, atol=0.02 * np.abs(steps[0]).max())
