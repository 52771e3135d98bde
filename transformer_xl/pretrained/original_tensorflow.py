"""Checkpoints of the original TensorFlow code, kimiyoung/transformer-xl/tf.

Its layer norms add 1e-12 to the variance, layers are always normalised after the residual, memory
starts as zeros that are attended, and tables are always tied. Kernels are `[in, out]` and
projections `[E, D]`, as here; position biases of all layers stand in one array.
"""

import itertools
from collections.abc import Mapping

import tensorflow as tf

from transformer_xl.config import ModelConfig
from transformer_xl.model import TransformerXL
from transformer_xl.pretrained.original_settings import complete, divisor, fields_of
from transformer_xl.pretrained.vocabulary_files import load_tokens_beside
from transformer_xl.pretrained.weight_map import COLUMNS, REPEATED, ROWS, SAME, STACKED, Entry, fill

_EMBEDDING = "transformer/adaptive_embed"
_SOFTMAX = "transformer/adaptive_softmax"
# What a training checkpoint holds besides weights.
_COUNTERS = {"global_step", "beta1_power", "beta2_power"}
_SLOTS = ("/Adam", "/Adam_1")


def load_tf1(
    checkpoint_prefix: str, config: ModelConfig | Mapping | None = None, **arguments
) -> tuple[TransformerXL, list[str] | None]:
    """A model that the original TensorFlow code saved.

    Names and shapes tell the architecture. `memory_length` they do not tell: it must be given.
    Neither do they tell `clamp_length` (-1 if it is not given), `same_length` (False), the dropout
    rates and the lengths of training; these change no weight.

    With `same_length` the original code lets a query see one key more than memory is long, so
    the model gets a `memory_length` of one more than is given, and then has the same numbers.

    Args:
      checkpoint_prefix: the path without `.index`.
      config: what the checkpoint does not tell: some fields of `ModelConfig` by name, or by the
        names of the original code's arguments (`mem_len`, ...), or a whole `ModelConfig`, which is
        then taken as it is.
      **arguments: of `TransformerXL`, as `dtype` and `seed`.

    Returns:
      The pair (model, its tokens in the order of ids or None). Tokens come from a vocabulary
      file beside the checkpoint, see `vocabulary_files`.

    Raises:
      FileNotFoundError: if there is no such checkpoint.
      ValueError: if it is damaged, weights are missing or left over, or settings are missing.
    """
    arrays = _load_arrays(checkpoint_prefix)
    shapes = _Shapes({name: array.shape for name, array in arrays.items()}, checkpoint_prefix)
    inferred = {
        **_architecture(shapes, fields_of(config)),
        "layer_norm_epsilon": 1e-12,
        "memory_start": "zeros",
    }
    if not isinstance(config, ModelConfig):
        given = fields_of(config)
        if given.get("same_length") and given.get("memory_length") is not None:
            config = {**given, "memory_length": given["memory_length"] + 1}
    config = complete(inferred, config, checkpoint_prefix)
    tokens = load_tokens_beside(checkpoint_prefix, config.vocab_size)
    model = TransformerXL(config, **arguments)
    fill(_entries_of(model, shapes), arrays, checkpoint_prefix)
    return model, tokens


class _Shapes:
    """The shapes of a checkpoint's weights; one that is needed and missing is an error."""

    def __init__(self, shapes: Mapping[str, tuple], path: str):
        self._shapes, self._path = shapes, path

    def __getitem__(self, name: str) -> tuple:
        if name not in self._shapes:
            raise ValueError(
                f"The weights in {self._path} do not fit the model. It lacks: {name}, by which "
                "the architecture is known."
            )
        return self._shapes[name]

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def count(self, pattern: str) -> int:
        """How many numbers, from 0 to the highest, stand in names like the pattern."""
        start, _, end = pattern.partition("{}")
        numbers = [
            name.removeprefix(start).partition("/")[0]
            for name in self._shapes
            if name.startswith(start) and name.endswith(end)
        ]
        return max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)


def _load_arrays(prefix: str) -> dict:
    if not tf.io.gfile.exists(f"{prefix}.index"):
        raise FileNotFoundError(
            f"There is no TensorFlow checkpoint {prefix}: {prefix}.index is missing. Give the path "
            "without .index."
        )
    try:
        reader = tf.train.load_checkpoint(prefix)
        names = set(reader.get_variable_to_shape_map())
        slots = {name + slot for name in names for slot in _SLOTS}
        return {name: reader.get_tensor(name) for name in names - slots - _COUNTERS}
    except (tf.errors.OpError, ValueError, IndexError, RuntimeError) as error:
        raise ValueError(
            f"{prefix} cannot be read: it is damaged or cut short ({type(error).__name__}: "
            f"{str(error).splitlines()[0]})."
        ) from error


def _architecture(shapes: _Shapes, given: Mapping) -> dict:
    """The fields of `ModelConfig` that names and shapes tell."""
    num_layers = shapes.count("transformer/layer_{}/rel_attn/o/kernel")
    num_layers = max(num_layers, shapes.count("transformer/layer_{}/ff/layer_1/kernel"))
    layer = "transformer/layer_0"
    _, model_dim = shapes[f"{layer}/rel_attn/o/kernel"]
    _, feed_forward_dim = shapes[f"{layer}/ff/layer_1/kernel"]
    biases = shapes["transformer/r_w_bias"]
    num_clusters = 1
    if shapes.count(f"{_SOFTMAX}/cutoff_{{}}"):
        num_clusters += shapes[f"{_SOFTMAX}/cutoff_0/cluster_W"][0]
    else:
        shapes[f"{_SOFTMAX}/bias"]  # refused without it
    if not shapes.count(f"{_EMBEDDING}/cutoff_{{}}/lookup_table"):
        vocab_size, embedding_dim = shapes[f"{_EMBEDDING}/lookup_table"]
        div_val, projects_head = 1, embedding_dim != model_dim
        sizes = [vocab_size]
        if num_clusters > 1:
            sizes = [shapes[f"{_SOFTMAX}/cutoff_{i}/b"][0] for i in range(num_clusters)]
    else:
        tables = [shapes[f"{_EMBEDDING}/cutoff_{i}/lookup_table"] for i in range(num_clusters)]
        sizes, widths = zip(*tables)
        vocab_size, embedding_dim = sum(sizes), widths[0]
        # One cluster has the width of the first whatever it is divided by.
        div_val = divisor(widths, "the checkpoint") if num_clusters > 1 else 2
        scopes = (f"{_EMBEDDING}/cutoff_0/proj_W", f"{_SOFTMAX}/cutoff_0/proj")
        projects_head = any(name in shapes for name in scopes)
    own = [f"{_SOFTMAX}/cutoff_{i}/proj" in shapes for i in range(num_clusters)]
    # The head's projection is never shared, those of the tails are all or none of them.
    tails_own = any(own[1:]) and "tie_projections" not in given
    tie_projections = (num_clusters == 1,) + (not tails_own,) * (num_clusters - 1)
    return {
        "vocab_size": vocab_size,
        "num_layers": num_layers,
        "model_dim": model_dim,
        "embedding_dim": embedding_dim,
        "num_heads": biases[-2],
        "head_dim": biases[-1],
        "feed_forward_dim": feed_forward_dim,
        "cutoffs": tuple(itertools.accumulate(sizes))[:-1],
        "div_val": div_val,
        "force_projection": None if projects_head or div_val == 1 else False,
        "tie_projections": tie_projections,
        "untie_position_biases": len(biases) == 3,
    }


def _entries_of(model: TransformerXL, shapes: _Shapes) -> list[Entry]:
    entries = []

    def add(name, variables, layout=SAME):
        variables = variables if isinstance(variables, (list, tuple)) else (variables,)
        entries.append(Entry((name,), tuple(variables), layout))

    embedding, head, config = model.embedding, model.head, model.config
    clusters = range(head.clusters.num_clusters)
    if f"{_EMBEDDING}/lookup_table" in shapes:
        add(f"{_EMBEDDING}/lookup_table", embedding.tables, ROWS)
        if any(embedding.projected):
            add(f"{_EMBEDDING}/proj_W", embedding.projections, REPEATED)
    else:
        for i in clusters:
            add(f"{_EMBEDDING}/cutoff_{i}/lookup_table", embedding.tables[i])
            if embedding.projected[i]:
                add(f"{_EMBEDDING}/cutoff_{i}/proj_W", embedding.projections[i])
    if head.clusters.num_tails:
        add(f"{_SOFTMAX}/cutoff_0/cluster_W", head.cluster_kernel)
        add(f"{_SOFTMAX}/cutoff_0/cluster_b", head.cluster_bias)
    for i in clusters:
        scope = f"{_SOFTMAX}/cutoff_{i}"
        add(f"{scope}/b" if head.clusters.num_tails else f"{_SOFTMAX}/bias", head.biases[i])
        if head.projected[i] and not head.bind_projections[i]:
            add(f"{scope}/proj", head.projections[i])
    biases = [block.inner.biases for block in model.blocks if block.attends]
    biases, layout = (biases, STACKED) if config.untie_position_biases else (biases[:1], SAME)
    add("transformer/r_w_bias", [one.content for one in biases], layout)
    add("transformer/r_r_bias", [one.position for one in biases], layout)
    for n in range(config.num_layers):
        attention, feed_forward = model.blocks[2 * n : 2 * n + 2]
        inner, scope = attention.inner, f"transformer/layer_{n}/rel_attn"
        add(f"{scope}/qkv/kernel", (inner.query_kernel, inner.key_value_kernel), COLUMNS)
        add(f"{scope}/r/kernel", inner.position_kernel)
        add(f"{scope}/o/kernel", inner.output_kernel)
        add(f"{scope}/LayerNorm/gamma", attention.norm.gamma)
        add(f"{scope}/LayerNorm/beta", attention.norm.beta)
        inner, scope = feed_forward.inner, f"transformer/layer_{n}/ff"
        add(f"{scope}/layer_1/kernel", inner.inner_kernel)
        add(f"{scope}/layer_1/bias", inner.inner_bias)
        add(f"{scope}/layer_2/kernel", inner.outer_kernel)
        add(f"{scope}/layer_2/bias", inner.outer_bias)
        add(f"{scope}/LayerNorm/gamma", feed_forward.norm.gamma)
        add(f"{scope}/LayerNorm/beta", feed_forward.norm.beta)
    return entries
