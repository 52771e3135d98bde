"""JSON that any reader takes, which has no word for NaN and infinity. Python writes them.

RFC 8259, section 6, permits neither. A run that diverged would otherwise leave files that strict
readers refuse.
"""

import json
import math


def strict_json(value, **settings) -> str:
    """`json.dumps`, with null for floats that are not finite.

    Args:
      value: of lists, tuples, dictionaries and what stands in them.
      **settings: of `json.dumps`, without `allow_nan`.

    Raises:
      TypeError: for what JSON has no form of.
    """
    try:
        return json.dumps(value, allow_nan=False, **settings)
    except ValueError:
        return json.dumps(_with_null(value), allow_nan=False, **settings)


def _with_null(value):
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _with_null(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_null(item) for item in value]
    return value
