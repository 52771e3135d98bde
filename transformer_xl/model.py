"""TransformerXL: the language model, from ids to hidden states and their likelihoods.

B batch, L segment length, M memory length, S = M + L key length, D width, N attention layers,
V vocabulary.
"""

import dataclasses
import inspect

import keras
import tensorflow as tf

from adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from adaptive.head_training import HeadTraining, product_of_weights, unpacked
from transformer_xl import cache as cache_lib
from transformer_xl import memory as memory_lib
from transformer_xl import new_cache
from transformer_xl import positions as positions_lib
from transformer_xl.block import make_blocks, normal
from transformer_xl.config import ModelConfig
from transformer_xl.config_rules import check_lengths, instance_of
from transformer_xl.dropout import dropout, step_seed
from transformer_xl.export import Exports
from transformer_xl.generate import generate
from transformer_xl.layer_norm import LayerNorm
from transformer_xl.memory import Memory
from transformer_xl.one_trace import callables
from transformer_xl.shapes import checked_tokens, known

# The blocks' sites for dropout begin after these.
_EMBEDDING_SITE, _POSITION_SITE, _HIDDEN_SITE = range(3)
_FIRST_BLOCK_SITE = 3


@keras.saving.register_keras_serializable(package="transformer_xl")
class TransformerXL(HeadTraining, Exports, keras.Model):
    """A language model that remembers the segments before, Dai et al. (2019).

    "Transformer-XL: Attentive language models beyond a fixed-length context". Input and output
    are adaptive layers with tied tables and projections.

    Memory is an argument and a result of every call and never state of the model. `clamp_length`
    and `same_length` can be given to every call and default to the configuration's; the memory
    returned is as long as the one passed in, which may differ from training's.

    `fit`, `evaluate` and `predict` take batches `(tokens, targets, weights)`, the weights `[B, L]`
    or `[B]`, one for each row, and carry no memory from one to the next; `train.py` does.

    Args:
      config: a `ModelConfig`.
      seed: of dropout; the starting weights come from Keras' global seed.

    Call arguments:
      tokens: int `[B, L]`, ids sorted by frequency.
      memory: the `Memory` that an earlier call returned; None for `initial_memory(B)`.
      training: whether dropout is on.
      segment_length: where the L tokens are several segments that follow one another, read as one:
        how long each is, for the numbers that a call for each would give. None for one.
      embedded: what `embedding(tokens)` gave, where a caller differentiates it apart; None to
        compute it.
      one_trace: in a graph, whether blocks of a kind are traced once, for first derivatives only.

    Returns:
      The pair (hidden states `[B, L, D]` in the compute dtype, the next `Memory`).

    Raises:
      ValueError: for a config of another kind, memory that does not fit the model, tokens that are
        not whole segments, or, in eager calls, ids outside the vocabulary.

    Example:
      >>> model = TransformerXL(ModelConfig(vocab_size=100, cutoffs=(20,), div_val=4))
      >>> hidden, memory = model(tf.zeros([2, 5], tf.int32))
      >>> hidden, memory = model(tf.zeros([2, 5], tf.int32), memory)
      >>> memory.valid
      <tf.Tensor: shape=(2,), dtype=int32, numpy=array([10, 10], dtype=int32)>
    """

    def __init__(self, config: ModelConfig, seed: int | None = None, **kwargs):
        # Checkpoints know variables by path, so no name may depend on what was made before.
        super().__init__(**{"name": "transformer_xl", **kwargs})
        self.config = instance_of(config, ModelConfig)
        self.seed_generator = keras.random.SeedGenerator(seed, name="dropout_seed")
        shared = {"dtype": self.dtype_policy}
        tables = {
            "embed_dim": config.embedding_dim,
            "cutoffs": config.cutoffs,
            "div_val": config.div_val,
            "force_projection": config.force_projection,
            "embeddings_initializer": normal(config.init_stddev),
            "kernel_initializer": normal(config.projection_init_stddev),
        }
        sizes = (config.vocab_size, config.model_dim)
        self.embedding = AdaptiveEmbedding(*sizes, name="embedding", **tables, **shared)
        self.blocks = make_blocks(config, _FIRST_BLOCK_SITE, self.dtype_policy)
        self.final_norm = None
        if config.final_norm:
            epsilon = config.layer_norm_epsilon
            self.final_norm = LayerNorm(epsilon=epsilon, name="final_norm", **shared)
        ties = any(config.tie_projections) or config.tie_tables
        self.head = AdaptiveSoftmax(
            config.model_dim,
            config.vocab_size,
            tied_to=self.embedding if ties else None,
            bind_embeddings=config.tie_tables,
            bind_projections=config.tie_projections,
            cluster_initializer=normal(config.init_stddev),
            name="head",
            **tables,
            **shared,
        )
        self._make_metrics()
        self.build((None, None))  # a shape, since SavedModels of models around this ask for it

    def build(self, input_shape=None):
        del input_shape  # the weights do not depend on it
        # A shape, since Keras' summary asks the embedding for its output's.
        if not self.embedding.built:
            self.embedding.build((None, None))
        for layer in (*self.blocks, self.head):
            if not layer.built:
                layer.build(None)
        if self.final_norm is not None and not self.final_norm.built:
            self.final_norm.build((None, None, self.config.model_dim))

    def initial_memory(self, batch_size, memory_length: int | None = None) -> Memory:
        """The memory before the first segment, as `memory_start` says.

        Args:
          batch_size: B.
          memory_length: M; None for the configuration's. May be 0.
        """
        config = self.config
        length = config.memory_length if memory_length is None else memory_length
        what = (config.model_dim, self.compute_dtype, config.memory_start)
        return memory_lib.initial(config.num_layers, batch_size, length, *what)

    def initial_cache(
        self,
        batch_size,
        memory_length: int | None = None,
        segment_length: int = 1,
        clamp_length: int | None = None,
    ) -> cache_lib.Cache:
        """The cache before the first segment, for `extend`.

        Args:
          batch_size: B.
          memory_length: M; None for the configuration's. May be 0.
          segment_length: how many tokens will be read at a time; others are as right, and slower
            where they are more.
          clamp_length: None for the configuration's; holds for all segments that follow.
        """
        length = self.config.memory_length if memory_length is None else memory_length
        return new_cache.initial(self, batch_size, length, segment_length, clamp_length)

    def extend(
        self,
        tokens,
        cache,
        same_length: bool | None = None,
        lengths=None,
        outside_xla: bool = False,
        segment_length: int | None = None,
    ):
        """Reads a segment as a call does, without projecting what went before once more.

        The numbers are those of a call with a memory of the same length. There is no dropout, and
        gradients are not meant to be taken.

        Args:
          tokens: int `[B, L]`.
          cache: of `initial_cache`, or as an earlier call returned it.
          same_length: None for the configuration's.
          lengths: int32 `[B]`, where rows are of different lengths: how many of each row's last
            tokens are its own. What stands before them is not attended. Only rows that have read
            nothing yet may have less than L, 0 to read nothing. None for all L.
          outside_xla: True where XLA surely does not compile the caller: a single token is then
            written in place by an operation that XLA does not have.
          segment_length: as in a call; not with `lengths`.

        Returns:
          The pair (hidden states `[B, L, D]` in the compute dtype, the next `Cache`).

        Raises:
          ValueError: for what does not go together; `lengths` are looked at where that is no wait.
        """
        named = {"outside_xla": outside_xla, "segment_length": segment_length}
        return cache_lib.extend(self, tokens, cache, same_length, lengths, **named)

    def call(
        self,
        tokens,
        memory=None,
        training=None,
        clamp_length=None,
        same_length=None,
        embedded=None,
        segment_length=None,
        one_trace=False,
    ):
        config = self.config
        clamp_length = known(config.clamp_length if clamp_length is None else clamp_length)
        same_length = known(config.same_length if same_length is None else same_length)
        tokens, batch_size, num_tokens = checked_tokens(tokens)
        if memory is None:
            memory = self.initial_memory(batch_size)
        memory = memory_lib.as_memory(memory)
        memory.check(config.num_layers, config.model_dim, batch_size)
        memory_length = memory.length
        check_lengths(memory_length, clamp_length, same_length)

        seed = step_seed(self.seed_generator) if training and self.drops else None
        hidden = self.embedding(tokens) if embedded is None else embedded
        hidden *= tf.constant(config.model_dim**0.5, hidden.dtype)
        hidden = dropout(hidden, config.dropout, seed, _EMBEDDING_SITE)
        distances = positions_lib.distances(memory_length + num_tokens, clamp_length)
        positions = positions_lib.sinusoids(distances, config.model_dim)
        positions = tf.cast(positions, hidden.dtype)
        positions = dropout(positions, config.dropout, seed, _POSITION_SITE)
        spans = (memory_length, num_tokens, same_length, known(segment_length))
        visible = memory_lib.visibility(memory.valid, *spans)

        inputs = []
        again = bool(config.rematerialize and training)
        for block, run in zip(self.blocks, callables(self.blocks, again, one_trace)):
            if block.attends:
                remembered = memory.hidden[len(inputs)]
                inputs.append(hidden)
                hidden = run(hidden, remembered, positions, visible, seed=seed)
            else:
                hidden = run(hidden, seed=seed)
        if self.final_norm is not None:
            hidden = self.final_norm(hidden)
        return dropout(hidden, config.dropout, seed, _HIDDEN_SITE), memory.update(inputs)

    def nll(self, tokens, targets, memory=None, training=None, outside_xla=False, **lengths):
        """The negative log-likelihood of each target.

        Args:
          tokens, targets: int `[B, L]`.
          memory, training: as in a call. A `Cache` may stand for memory, to evaluate with; it
            knows its `clamp_length` itself.
          outside_xla: as in the head's `loss`.
          **lengths: `clamp_length`, `same_length`, `segment_length`, as in a call.

        Returns:
          The pair (nats, float32 `[B, L]`; the next `Memory` or `Cache`).
        """
        if isinstance(memory, cache_lib.Cache):
            if training:
                raise ValueError("A Cache cannot train. Received: training=True. Give a Memory.")
            lengths.pop("clamp_length", None)
            hidden, memory = self.extend(tokens, memory, **lengths)
        else:
            hidden, memory = self(tokens, memory, training=training, **lengths)
        return self.head.nll(hidden, targets, training, outside_xla), memory

    @property
    def loss(self):
        """`loss(tokens, targets, weights, memory=None, training=None)`, for training; see `_loss`.

        A property, since `keras.Model` keeps the argument of `compile` under this name.
        """
        return self._loss

    @loss.setter
    def loss(self, value):
        if value is not None:
            raise ValueError(
                "A TransformerXL has a loss of its own. Received: "
                f"compile(loss={value!r}). Compile it with an optimizer only."
            )

    def _loss(self, tokens, targets, weights, memory=None, training=None, **lengths):
        """The weighted sum of the negative log-likelihoods, by the path made for training.

        Args:
          tokens, targets: int `[B, L]`.
          weights: float `[B, L]`, what each target counts for; no gradient.
          memory, training: as in a call.
          **lengths: `clamp_length`, `same_length`.

        Returns:
          The pair (nats, float32 scalar; the next `Memory`).
        """
        hidden, memory = self(tokens, memory, training=training, **lengths)
        return self.head.loss(hidden, targets, weights, training=training), memory

    def loss_and_nll(
        self, tokens, targets, weights, memory=None, training=None, outside_xla=False, **named
    ):
        """As `loss`, with each target's negative log-likelihood besides, for reports.

        Args:
          outside_xla: as in the head's `loss`.
          **named: `clamp_length`, `same_length`, `embedded`, `one_trace`, as in a call; the rest
            as in `loss`.

        Returns:
          The triple (nats, float32 scalar; nats of each target, float32 `[B, L]`, without a
          gradient; the next `Memory`).
        """
        hidden, memory = self(tokens, memory, training=training, **named)
        found = self.head.loss_and_nll(hidden, targets, weights, training, outside_xla)
        return *found, memory

    def log_prob(self, tokens, memory=None, **lengths):
        """The log-probability of every id at every position.

        Args:
          tokens: int `[B, L]`.
          memory: as in a call.
          **lengths: `clamp_length`, `same_length`.

        Returns:
          The pair (float32 `[B, L, V]`; the next `Memory`).
        """
        hidden, memory = self(tokens, memory, training=False, **lengths)
        return self.head.log_prob(hidden), memory

    def generate(self, prompt, num_tokens: int, seed, **settings):
        """Continues prompts: int32 `[B, num_tokens]`; see `transformer_xl.generate.generate`."""
        return generate(self, prompt, num_tokens, seed, **settings)

    def summed_loss(self, x, y, sample_weight, training):
        weights = product_of_weights(y, sample_weight)
        summed, _ = self.loss(x, y, weights, training=training)
        return summed, weights, None

    def predict_step(self, data):
        """The negative log-likelihood of each target, float32 `[B, L]`."""
        tokens, targets, _ = unpacked(data)
        return self.nll(tokens, targets, training=False)[0]

    @property
    def drops(self) -> bool:
        """Whether a training call draws random numbers."""
        return self.config.dropout > 0 or self.config.attention_dropout > 0

    def get_config(self):
        seed = self.seed_generator.get_config()["seed"]
        return {**super().get_config(), "seed": seed, "config": dataclasses.asdict(self.config)}

    @classmethod
    def from_config(cls, config):
        config = {**config, "config": ModelConfig(**config["config"])}
        if "seed" not in inspect.signature(cls.__init__).parameters:
            config.pop("seed", None)  # a subclass that knows its own
        return cls(**config)
