"""How the layers make their weights."""

import math

import keras
import tensorflow as tf

# Far apart, so that the weights of layers with neighbouring seeds do not coincide.
SEED_STRIDE = 1_000_003
# Numbers from which on a weight is drawn in place: tracing a function for each costs time, too.
_LARGE = 2**20


def fresh(initializer, index: int = 0):
    """An initializer for one more weight of a layer.

    A random initializer with a seed of its own gives every weight the same draws: so each weight
    gets a clone, with another seed where the seed is a number.

    Args:
      initializer: the layer's, or None.
      index: of the weight, among those that share the initializer.
    """
    if not isinstance(initializer, keras.Initializer):
        return initializer
    if isinstance(getattr(initializer, "seed", None), keras.random.SeedGenerator):
        return initializer  # it advances from draw to draw
    config = initializer.get_config()
    if isinstance(config.get("seed"), int):
        config["seed"] += SEED_STRIDE * index
    return initializer.from_config(config)


class _Given(keras.random.SeedGenerator):
    """A generator that gives one seed, without a variable."""

    def __init__(self, seed):
        self._seed = seed

    def next(self, ordered=True):
        return self._seed


def drawn_in_place(initializer, shape):
    """An initializer that draws the same numbers, of a large weight without copies of it.

    Keras scales and shifts what it has drawn, each time into a new tensor as large as the weight.
    In a function TensorFlow writes over what nothing else needs.

    Args:
      initializer: the weight's.
      shape: the weight's.

    Returns:
      The initializer itself for small weights, and where it is not one of Keras' own random ones
      with a number for a seed: others may compute with NumPy, whose result a function would keep.
    """
    own = type(initializer).__module__.startswith("keras.")
    seed = getattr(initializer, "seed", None)
    if not own or not isinstance(seed, int) or math.prod(shape) < _LARGE:
        return initializer

    def draw(shape, dtype=None):
        # The seed is an argument: of a constant TensorFlow would draw once more, to fold constants.
        @tf.function(autograph=False)
        def drawn(seed):
            like = type(initializer).from_config({**initializer.get_config(), "seed": _Given(seed)})
            return like(shape, dtype=dtype)

        return drawn(tf.constant([seed, 0], tf.uint32))

    return draw


def add_weight(layer, name, shape, kind, index=0, initializer=None):
    """A weight of a layer that has `<kind>_initializer`, `<kind>_regularizer` and so on.

    Weights are never cast as a whole, whatever the policy: the layers cast what they use.

    Args:
      layer: that gets the weight.
      name: of the weight.
      shape: of the weight.
      kind: of weight, the beginning of the names of the layer's settings for it.
      index: of the weight, among those of its kind.
      initializer: instead of the kind's.
    """
    initializer = fresh(initializer or getattr(layer, f"{kind}_initializer"), index)
    return layer.add_weight(
        name=name,
        shape=shape,
        initializer=drawn_in_place(initializer, shape),
        regularizer=getattr(layer, f"{kind}_regularizer", None),
        constraint=getattr(layer, f"{kind}_constraint", None),
        autocast=False,
    )


def weight_config(layer, initialized, regularized):
    """The configuration of a layer's initializers, regularizers and constraints.

    Args:
      layer: with an attribute `<kind>_initializer` for each kind of weight, and so on.
      initialized: the kinds that have an initializer.
      regularized: the kinds that have a regularizer and a constraint.
    """
    config = {}
    for kinds, what, module in (
        (initialized, "initializer", keras.initializers),
        (regularized, "regularizer", keras.regularizers),
        (regularized, "constraint", keras.constraints),
    ):
        for kind in kinds:
            config[f"{kind}_{what}"] = module.serialize(getattr(layer, f"{kind}_{what}"))
    return config
