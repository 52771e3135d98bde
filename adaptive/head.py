"""What every head has: checks, losses and predictions on top of its clusters' weights.

T tokens after flattening, D width of the hidden states, V vocabulary.
"""

import keras
import tensorflow as tf

from . import factored
from .clusters import Clusters
from .cross_entropy import linear_losses, linear_nll
from .dense_tensors import as_tensor
from .hidden_states import (
    as_targets,
    check_k,
    check_label_settings,
    check_sampling,
    check_width,
    checked_seed,
    examples,
    fitted,
    flat_features,
    refuse_symbolic,
)
from .id_order import IdOrder
from .sampling import draw
from .search import TopK, search
from .tail_bounds import bounds_of
from .tail_share import TailShare


class SoftmaxHead(keras.layers.Layer):
    """A distribution over ids, given hidden states; the base of the heads.

    A subclass makes the weights in `build` and hands them out in `linears`.

    Args:
      input_dim: width of the hidden states, or None where `build` finds it.
      clusters: of the vocabulary.
      id_order: `[V]`, the ids from the commonest to the rarest; None if ids are sorted so.
      ignore_index: a target that costs nothing and has no gradient; None for none. It need not be
        an id.
      label_smoothing: the share of each target that training spreads evenly over all ids.
      **kwargs: of `keras.layers.Layer`.
    """

    tied_to = None  # the embedding whose weights are used, in the heads that have it

    def __init__(
        self, input_dim, clusters, id_order=None, ignore_index=None, label_smoothing=0.0, **kwargs
    ):
        # Weights are cast where they are used; see `cross_entropy`.
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True
        check_label_settings(ignore_index, label_smoothing)
        self.input_dim = input_dim
        self.width = input_dim  # found by `build` where the argument is None
        self.clusters: Clusters = clusters
        self.id_order = IdOrder(id_order, clusters.vocab_size)
        self.ignore_index = ignore_index
        self.label_smoothing = float(label_smoothing)
        self.tail_share = TailShare(self.name, ordered=id_order is not None)

    @property
    def trainable(self):
        return super().trainable

    @trainable.setter
    def trainable(self, value):
        # The embedding that this layer is tied to has a switch of its own.
        shared = [] if self.tied_to is None else [self.tied_to, *self.tied_to.variables]
        before = [one.trainable for one in shared]
        keras.layers.Layer.trainable.fset(self, value)
        for one, was in zip(shared, before):
            one.trainable = was

    def linears(self) -> tuple[factored.Linear, ...]:
        """The weights of each cluster."""
        raise NotImplementedError

    def load_own_variables(self, store):
        # Not built yet in a model whose `call` does not use this layer, only `nll` or `loss`.
        if not self.built and store.keys():
            self.build((None, self.input_dim))
        super().load_own_variables(store)

    def call(self, hidden):
        check_width(self, hidden)
        return tf.exp(self._log_prob(hidden, self.linears()))

    def compute_output_spec(self, hidden):
        check_width(self, hidden)
        shape = (*hidden.shape[:-1], self.clusters.vocab_size)
        return keras.KerasTensor(shape, dtype="float32")

    def log_prob(self, hidden):
        """The log-probability of every id.

        Args:
          hidden: `[..., D]`.

        Returns:
          float32 `[..., V]`.

        Raises:
          ValueError: for symbolic tensors, or hidden states of another width.
        """
        return self._log_prob(self._checked(hidden), self.linears())

    def nll(self, hidden, targets, training=None, outside_xla=False):
        """The negative log-likelihood of each target, in the order of the input.

        Right for any upstream gradient; the backward pass computes the logits a second time. Of
        the tails, only what the targets need is computed.

        Args:
          hidden: `[..., D]`.
          targets: int `[...]`, ids from 0 to V - 1, or `ignore_index`, which costs 0.
          training: True for the loss that training minimises, where that is another one: with
            label smoothing, or with sampling.
          outside_xla: as in `loss`.

        Returns:
          float32 `[...]`.

        Raises:
          ValueError: if the shapes do not fit, or, in eager calls, for ids outside the vocabulary.
            Sizes known only at run time are compared then: an InvalidArgumentError; by XLA, but
            for sizes of 1. Compiled code cannot raise for ids: such an id's loss and all gradients
            are NaN.
        """
        features, _, ranks, ignored, shape = examples(self, self._checked(hidden), targets)
        nll = self._nll(features, ranks, training, outside_xla)
        if ignored is not None:
            nll = tf.where(ignored, 0.0, nll)
        return tf.reshape(nll, shape)

    def loss(self, hidden, targets, sample_weight=None, training=None, outside_xla=False):
        """The weighted sum of the negative log-likelihoods, by the path made for training.

        With `training=True` the gradients are formed together with the loss, so that each logit
        is computed once; otherwise none is formed unless a tape asks.

        Args:
          hidden: `[..., D]`.
          targets: int `[...]`, as in `nll`.
          sample_weight: float `[...]`, what each token counts for; None means 1. It has no
            gradient.
          training: whether gradients will be wanted.
          outside_xla: True where XLA surely does not compile the caller, which saves time and
            memory: sizes are then what the targets ask, and tables are written in place.

        Returns:
          float32 scalar.

        Raises:
          ValueError: as `nll`.
        """
        return self.loss_and_nll(hidden, targets, sample_weight, training, outside_xla)[0]

    def loss_and_nll(self, hidden, targets, sample_weight=None, training=None, outside_xla=False):
        """The pair of `loss` and each token's part of it before it is weighted, for reports.

        Arguments and errors as in `loss`.

        Returns:
          float32 scalar; float32 `[...]`, which has no gradient.
        """
        hidden, weights = self._checked(hidden), self.target_weights(targets, sample_weight)
        features, weights, ranks, ignored, shape = examples(self, hidden, targets, weights)
        loss, each = self._loss(features, ranks, weights, training, outside_xla)
        if ignored is not None:
            each = tf.where(ignored, 0.0, each)
        return loss, tf.reshape(tf.stop_gradient(each), shape)

    def target_weights(self, targets, sample_weight=None):
        """What each target counts for in `loss`: its weight, or 0 where it is ignored.

        Args:
          targets: int `[...]`.
          sample_weight: float `[...]`; None means 1.

        Returns:
          float32 `[...]`, without a gradient.

        Raises:
          ValueError: if the shapes differ.
        """
        targets = as_targets(targets, self.ignore_index)
        weights = tf.ones(tf.shape(targets))
        if sample_weight is not None:
            sample_weight = tf.cast(as_tensor(sample_weight, "sample_weight"), tf.float32)
            sample_weight = fitted("sample_weight", sample_weight, "targets", targets)
            weights = tf.stop_gradient(sample_weight)
        if self.ignore_index is not None:
            weights = tf.where(targets == self.ignore_index, 0.0, weights)
        return weights

    def tail_bounds(self):
        """What searches need of the weights alone, to be found once for many of them.

        `predict`, `top_k` and `sample` take it as `bounds`, for as long as weights stay the same.
        """
        return tuple(bounds_of(linear) for linear in self.linears()[1:])

    def predict(self, hidden, bounds=None, linears=None):
        """The likeliest id; of equally likely ones the lower.

        Args:
          hidden: `[..., D]`.
          bounds, linears: as `sample`.

        Returns:
          int32 `[...]`.

        Raises:
          ValueError: as `log_prob`.
        """
        return self._search(hidden, 1, shift=True, bounds=bounds, linears=linears).ids[..., 0]

    def top_k(self, hidden, k, bounds=None):
        """The k likeliest ids, exactly; a tail is computed only where it can hold one of them.

        Args:
          hidden: `[..., D]`.
          k: from 1 to V.
          bounds: as `sample`.

        Returns:
          `TopK(log_probabilities, ids)`, float32 and int32 `[..., k]`, in falling order; of
          equally likely ids the lower comes first.

        Raises:
          ValueError: as `log_prob`, and for a k outside its range.
        """
        check_k(k, self.clusters.vocab_size)
        return self._search(hidden, int(k), bounds=bounds)

    def sample(
        self, hidden, seed, temperature=1.0, top_k=None, top_p=None, bounds=None, linears=None
    ):
        """Draws an id for each hidden state.

        Without temperature and bounds a column of the head is drawn first, and then, where that
        is a tail's, a word inside the tail: the others are not computed. With `top_k` the tails
        that cannot hold one of the k are not.

        Args:
          hidden: `[..., D]`.
          seed: int `[2]`; the same seed gives the same ids for the same shape. Or `[..., 2]`, one
            for each hidden state, which alone decides its id, whatever stands beside it.
          temperature: divides the log-probabilities; 0 takes the likeliest id.
          top_k: draw from the k likeliest ids only; None for all.
          top_p: draw from the fewest ids whose probabilities, at this temperature and within the
            k, add up to p (Holtzman et al., 2020); None for all.
          bounds: of `tail_bounds`, where they are known; None finds them.
          linears: the weights where they are laid out for few rows already; None for `linears()`.

        Returns:
          int32 `[...]`.

        Raises:
          ValueError: as `log_prob`, and for a value outside its rule.
        """
        check_sampling(temperature, top_k, top_p)
        hidden = self._checked(hidden)
        seed = checked_seed(seed, (*hidden.shape[:-1], 2))
        if temperature == 0:
            return self.predict(hidden, bounds, linears)
        features, linears = flat_features(self, hidden), linears or self.linears()
        if seed.shape.rank > 1:
            seed = tf.reshape(seed, [-1, 2])
        settings = (self.clusters, self.id_order, seed, temperature, top_k, top_p, bounds)
        return self._like(hidden, draw(features, linears, *settings))

    def get_config(self):
        return {
            **super().get_config(),
            "id_order": self.id_order.config(),
            "ignore_index": self.ignore_index,
        }

    def _nll(self, features, ranks, training, outside_xla=False):
        nll = tf.zeros(tf.shape(ranks))
        for *arguments, rows, smoothing, columns in self._parts(features, ranks, training):
            kind = {"rows": rows, "smoothing": smoothing, "columns": columns}
            # One after another: at the same time each would need the memory of its chunks.
            with tf.control_dependencies([nll]):
                nll += linear_nll(*arguments, **kind, outside_xla=outside_xla)
        return nll

    def _loss(self, features, ranks, weights, training, outside_xla=False):
        total, each = tf.zeros([]), tf.zeros(tf.shape(ranks))
        for part in self._parts(features, ranks, training):
            *arguments, rows, smoothing, columns = part
            kind = {"rows": rows, "smoothing": smoothing, "columns": columns}
            with tf.control_dependencies([total]):
                if training:
                    loss, nll = linear_losses(*arguments, weights, **kind, outside_xla=outside_xla)
                else:
                    nll = linear_nll(*arguments, **kind, outside_xla=outside_xla)
                    loss = tf.reduce_sum(weights * nll)
                total += loss
                each += nll
        return total, each

    def _parts(self, features, ranks, training):
        smoothing = self.label_smoothing if training else 0.0
        return factored.parts_of_loss(features, self.linears(), self.clusters, ranks, smoothing)

    def _log_prob(self, hidden, linears):
        by_rank = factored.log_prob(flat_features(self, hidden), linears, self.clusters)
        return self._like(hidden, self.id_order.columns_by_id(by_rank))

    def _search(self, hidden, k, shift=False, bounds=None, linears=None):
        hidden = self._checked(hidden)
        features, linears = flat_features(self, hidden), linears or self.linears()
        found = search(features, linears, self.clusters, self.id_order, k, shift, bounds)
        return TopK(*(self._like(hidden, result) for result in found.best))

    def _like(self, hidden, result):
        """`[T, ...]` with the leading shape of the hidden states."""
        last = result.shape[1:]
        result = tf.reshape(result, tf.concat([tf.shape(hidden)[:-1], last], 0))
        return tf.ensure_shape(result, [*hidden.shape[:-1], *last])

    def _checked(self, hidden):
        """The hidden states as a tensor; builds the layer."""
        refuse_symbolic(self, hidden)
        hidden = as_tensor(hidden, "Hidden states")
        check_width(self, hidden)
        if not self.built:
            self.build(hidden.shape)
        return hidden
