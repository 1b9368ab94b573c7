"""JSON as the server writes it.

JSON has no NaN and no infinity. In logprobs and in metrics they are written as null, rather than
hidden or made an error.
"""

from __future__ import annotations

import orjson


def encode(value: object) -> bytes:
    """JSON; arrays as lists, and what is not finite as null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
