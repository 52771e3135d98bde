"""How the layers use initializers."""

import keras


def fresh(initializer):
    """A clone, since one seeded random initializer gives every weight the same draws."""
    return initializer.clone() if isinstance(initializer, keras.Initializer) else initializer
