"""How the layers make their weights."""

import keras

# Far apart, so that the weights of layers with neighbouring seeds do not coincide.
SEED_STRIDE = 1_000_003


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
    return layer.add_weight(
        name=name,
        shape=shape,
        initializer=fresh(initializer or getattr(layer, f"{kind}_initializer"), index),
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
