"""The compiled loop that writes: read the prompts, then draw a token, read it, and so on.

B batch, P prompt length, D width, V vocabulary.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from adaptive import row_noise
from adaptive.sampling import draw_from
from transformer_xl.cache import Cache, extend
from transformer_xl.config_rules import check_lengths, finite, is_whole
from transformer_xl.new_cache import lengthened
from transformer_xl.shapes import known
from transformer_xl.turned_kernels import kernels_for_one_row, turned_kernels

# Tokens of prompts that are read at a time.
_SEGMENT = 512

# So many tokens make up for the seconds that XLA takes to compile on a CPU, for a model of a few
# narrow layers; for `wikitext103_base` 300 to 650 do (docs/generation.md).
_WORTH_COMPILING = 1000

# Under XLA products of up to so many rows take less time with kernels laid out anew, without it of
# no number of rows (docs/decisions/0012).
_TURNED_TO = 32
# In shorter texts making them, or the head's table, takes longer than they save.
_WORTH_TURNING, _WORTH_TURNING_TABLE = 20, 40

# The least length of a text's rings, and by how much the next is longer: each is compiled.
_SHORTEST_RINGS, _LONGER = 64, 4


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
      temperature: divides the log-probabilities; 0 takes the likeliest token.
      top_k: draw from the k likeliest tokens only; 0 for all.
      top_p: draw from the fewest tokens whose probabilities add up to p (Holtzman et al., 2020);
        1 for all.
      repetition_penalty: multiplies the log-probabilities of the tokens that the text has already,
        its prompt included; 1 for none. Keskar et al. (2019), section 4.1, where scores are
        divided; log-probabilities are scores below 0, which a division would make likelier.

    Raises:
      ValueError: for a value outside its rule.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self):
        for name, rule, fine in (
            ("temperature", "at least 0", self.temperature >= 0),
            ("top_k", "an integer", is_whole(self.top_k)),
            ("top_k", "at least 0", self.top_k >= 0),
            ("top_p", "above 0 and at most 1", 0 < self.top_p <= 1),
            ("repetition_penalty", "at least 1", self.repetition_penalty >= 1),
        ):
            if not fine:
                raise ValueError(f"{name} must be {rule}. Received: {getattr(self, name)}.")
        finite(self)

    @property
    def penalises(self) -> bool:
        """Whether what was written matters beyond the model."""
        return self.repetition_penalty != 1


class OfWeights(NamedTuple):
    """What depends on the weights alone and is made once a text."""

    # Kernels and the head's table as CPUs read them fast; () where they are not laid out anew.
    turned_kernels: tuple
    head_table: tuple
    tail_bounds: tuple  # what searches need of the tails


class Writing(NamedTuple):
    """The state between two tokens."""

    hidden: tf.Tensor  # [B, D], of the last token
    cache: Cache
    seeds: tf.Tensor  # int32 [B, 2]
    place: tf.Tensor  # int32 scalar, how many tokens were written
    stopped: tf.Tensor  # bool [B]
    seen: tf.Tensor  # bool [B, V]; [B, 0] where nothing asks
    of_weights: OfWeights | tuple  # () inside the loop, which would return copies
    left: int | tuple | None = None  # how many tokens may be written, None for any; () inside


class Decoder:
    """Continues batches of prompts; compiled on first use and then kept.

    Args:
      model: a `TransformerXL`.
      sampling: how tokens are chosen.
      memory_length: positions remembered; None for the configuration's.
      stop_ids: a row that has written one of these is at its end; the rest of it repeats the
        first of them.
      jit_compile: whether XLA compiles the loop; None: on GPUs, and on CPUs where 1,000 tokens or
        more are written.
      num_tokens: how many tokens will be written one after another, at most, summed over texts
        that are not in the same batch; None for very many. On CPUs XLA takes seconds more to
        compile, and less time a token.
      fixed_weights: whether the model's weights will stay as they are. What is made of them is
        then made for the first text and kept; otherwise for every text anew.

    Attributes:
      jit_compile: what was chosen.
    """

    def __init__(
        self,
        model,
        sampling: Sampling,
        memory_length=None,
        stop_ids=(),
        jit_compile=None,
        num_tokens=None,
        fixed_weights=False,
    ):
        self._model, self._sampling = model, sampling
        self._fixed_weights = fixed_weights
        configured = model.config.memory_length
        self._memory_length = known(configured if memory_length is None else memory_length)
        check_lengths(self._memory_length, -1, model.config.same_length)
        self._stop_ids = tuple(int(i) for i in stop_ids)
        if jit_compile is None:
            many = num_tokens is None or num_tokens >= _WORTH_COMPILING
            jit_compile = many or bool(tf.config.list_physical_devices("GPU"))
        self.jit_compile = jit_compile
        self._most_tokens = 0
        self._layouts, self._ring_lengths = {}, {}  # by batch size
        self._made = {}  # of fixed weights, by the kernels' layout
        self._start = tf.function(self._read_first, autograph=False)
        self._read = tf.function(self._read_segment, autograph=False)
        self._make = tf.function(self._made_of_weights, autograph=False)
        self._write = tf.function(self._write_tokens, autograph=False, jit_compile=jit_compile)

    def begin(self, prompts, seeds, num_tokens: int | None = None) -> Writing:
        """Reads prompts.

        Args:
          prompts: a list of B int arrays `[P]`, each at least one token long.
          seeds: int32 `[B, 2]`; a row's decides its text, whatever the others are.
          num_tokens: how many tokens will be written, at most; None for very many. Where memory
            begins empty, a text that will be shorter than it is costs no more a token than a
            memory of 64, 256, 1,024 and so on that holds it. Batches of a size use what is
            compiled already, if it is long enough, and the first decides whether kernels are
            laid out anew.
        """
        lengths = np.array([len(prompt) for prompt in prompts])
        longest = int(lengths.max())
        # Few shapes, each of which is compiled: powers of two, then whole segments.
        width = min(_SEGMENT, 1 << (longest - 1).bit_length())
        columns = -(-longest // width) * width
        tokens = np.zeros([len(prompts), columns], np.int32)
        for row, prompt in zip(tokens, prompts):
            row[columns - len(prompt) :] = prompt
        rings = length = self._ring_length(len(prompts), longest, num_tokens)
        if self._begins_empty and columns <= _SEGMENT:
            # Of what is not there nothing has to be read and copied. Longer prompts all have the
            # same shapes.
            length = min(length, columns)
        layout = self._layout(len(prompts), num_tokens)
        state, kept = (), None
        if self._fixed_weights:
            kept = self._made[layout] = self._made.get(layout) or self._make(layout)
        for start in range(0, columns, width):
            now = np.clip(lengths - (columns - start - width), 0, width).astype(np.int32)
            segment = tf.constant(tokens[:, start : start + width]), tf.constant(now)
            if start == 0:
                *state, of_weights = self._start(*segment, length, rings, layout, kept is None)
            else:
                state = self._read(*segment, state[1])
        hidden, cache = state
        cache = cache.for_single_tokens()
        seen = np.zeros([len(prompts), self._vocab_size if self._sampling.penalises else 0], bool)
        if self._sampling.penalises:
            for row, prompt in zip(seen, prompts):
                row[np.asarray(prompt)] = True
        return Writing(
            hidden,
            cache,
            tf.cast(seeds, tf.int32),
            tf.constant(0),
            tf.zeros([len(prompts)], tf.bool),
            tf.constant(seen),
            of_weights if kept is None else kept,
            None if rings == self._memory_length else num_tokens,
        )

    def write(self, state: Writing, num_tokens: int):
        """The pair (int32 `[B, num_tokens]`, the state after them).

        What was compiled for the most tokens so far writes fewer too.

        Raises:
          ValueError: for more tokens than `begin` was told of, where it made the memory for these.
        """
        left, of_weights = state.left, state.of_weights
        if left is not None:
            if num_tokens > left:
                raise ValueError(
                    "A text must not be longer than was said when it began and got its memory. "
                    f"Received: num_tokens={num_tokens}, {left} left. Give `begin` a larger "
                    "num_tokens, or None."
                )
            left -= num_tokens
        self._most_tokens = max(self._most_tokens, num_tokens)
        changing = state._replace(of_weights=(), left=())
        room = tf.zeros([self._most_tokens])
        tokens, changing = self._write(changing, of_weights, tf.constant(num_tokens), room)
        return tokens[:, :num_tokens], changing._replace(of_weights=of_weights, left=left)

    @property
    def _vocab_size(self):
        return self._model.config.vocab_size

    @property
    def _begins_empty(self):
        return self._model.config.memory_start == "empty"

    def _ring_length(self, num_rows, prompt_length, num_tokens):
        """Positions that the rings of a text have room for: as many as it will have, or M."""
        if not self._begins_empty:
            return self._memory_length
        needed = self._memory_length
        if num_tokens is not None:
            needed = min(prompt_length + num_tokens, needed)
        known = self._ring_lengths.setdefault(num_rows, set())
        if not any(length >= needed for length in known):
            length = _SHORTEST_RINGS
            while length < needed:
                length *= _LONGER
            known.add(min(length, self._memory_length))
        return min(length for length in known if length >= needed)

    def _layout(self, num_rows, num_tokens):
        """For which rows kernels are laid out anew, "one", "few" or ""; and if the table is."""
        if num_rows not in self._layouts:
            tokens = np.inf if num_tokens is None or self._fixed_weights else num_tokens
            on_cpu = not tf.config.list_physical_devices("GPU")
            anew = (
                num_rows <= _TURNED_TO and tokens >= _WORTH_TURNING and self.jit_compile and on_cpu
            )
            kernels = ("one" if num_rows == 1 else "few") if anew else ""
            # Where tokens are penalised, every one's probability is computed, without it.
            table = (kernels == "one" or not self.jit_compile) and not self._sampling.penalises
            self._layouts[num_rows] = kernels, bool(table and tokens >= _WORTH_TURNING_TABLE)
        return self._layouts[num_rows]

    def _read_first(self, tokens, lengths, length, rings, layout, make):
        """Hidden states and cache after the first segment, and what is made of the weights.

        One function for all of it, so that what does not wait for one another is done at once.

        Args:
          length: int, positions remembered meanwhile; fewer than in `rings` where this is the last
            segment, too.
          layout: of kernels, as `_layout` says.
          make: whether anything is made of the weights; else () stands for it.
        """
        batch_size, width = tokens.shape
        # Positions once, for the longer memory, too.
        cache = self._model.initial_cache(batch_size, length, max(width, rings + 1 - length))
        hidden, cache = self._read_segment(tokens, lengths, cache)
        if length < rings:
            cache = lengthened(self._model, cache, rings).for_single_tokens()
        return hidden, cache, self._made_of_weights(layout) if make else ()

    def _made_of_weights(self, layout):
        (rows, with_table), kernels, table = layout, (), ()
        if rows:
            kernels = {"one": kernels_for_one_row, "few": turned_kernels}[rows](self._model)
        if with_table:
            first = tf.convert_to_tensor(self._model.head.linears()[0].table)
            table = (tf.transpose(tf.cast(first, self._model.compute_dtype)),)
        return OfWeights(kernels, table, self._model.head.tail_bounds())

    def _read_segment(self, tokens, lengths, cache):
        hidden, cache = self._model.extend(tokens, cache, lengths=lengths)
        return hidden[:, -1], cache

    def _write_tokens(self, state, of_weights, num_tokens, room):
        """`room` is there for its shape, at least `num_tokens` long."""
        batch_size = state.hidden.shape[0]
        filler = self._stop_ids[0] if self._stop_ids else 0
        rows = tf.range(batch_size)
        tokens = tf.fill([batch_size, room.shape[0]], filler)

        def goes_on(i, tokens, state):
            del tokens
            return (i < num_tokens) & ~tf.reduce_all(state.stopped)

        def body(i, tokens, state):
            chosen, seen = self._chosen(state, of_weights)
            stopped = state.stopped
            if self._stop_ids:
                chosen = tf.where(stopped, filler, chosen)
                stopped |= tf.reduce_any(chosen[:, None] == tf.constant(self._stop_ids), -1)
            places = tf.stack([rows, tf.fill([batch_size], i)], 1)
            tokens = tf.tensor_scatter_nd_update(tokens, places, chosen)
            hidden, cache = extend(
                self._model,
                chosen[:, None],
                state.cache,
                outside_xla=not self.jit_compile,
                turned_kernels=of_weights.turned_kernels,
            )
            state = state._replace(
                hidden=hidden[:, 0],
                cache=cache,
                place=state.place + 1,
                stopped=stopped,
                seen=seen,
            )
            return i + 1, tokens, state

        _, tokens, state = tf.while_loop(
            goes_on, body, (tf.constant(0), tokens, state), parallel_iterations=1
        )
        return tokens, state

    def _chosen(self, state, of_weights):
        """The next token of each row, int32 `[B]`, and what was seen then."""
        sampling, head = self._sampling, self._model.head
        seeds = row_noise.fold_in(state.seeds, state.place, 1)
        bounds = (sampling.temperature, sampling.top_k or None, sampling.top_p)
        if not sampling.penalises:
            first, *tails = head.linears()
            linears = (first._replace(turned=next(iter(of_weights.head_table), None)), *tails)
            chosen = head.sample(state.hidden, seeds, *bounds, of_weights.tail_bounds, linears)
            return chosen, state.seen
        log_prob = head.log_prob(state.hidden)
        penalised = log_prob * sampling.repetition_penalty
        log_prob = tf.where(state.seen, penalised, log_prob)
        chosen = draw_from(log_prob, seeds, *bounds)
        places = tf.stack([tf.range(chosen.shape[0]), chosen], -1)
        written = tf.ones([chosen.shape[0]], tf.bool)
        return chosen, tf.tensor_scatter_nd_update(state.seen, places, written)
