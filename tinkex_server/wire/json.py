"""JSON as the server writes it.

JSON has no NaN and no infinity. In logprobs and in metrics they are written as null, rather than
hidden or made an error.
"""

from __future__ import annotations

import orjson


def encode(value: object) -> bytes:
    """Returns the JSON of a value, with arrays as lists, and NaN and infinity as null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
