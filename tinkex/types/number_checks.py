"""Checks of the type and the range of numbers that are sent. Each raises `InvalidInputError`,
naming the field.
"""

from __future__ import annotations

import math
from numbers import Integral, Real

from tinkex.errors import InvalidInputError

_INT64 = (-(2**63), 2**63 - 1)


def is_int(value: object) -> bool:
    """Returns whether `value` is an integer of Python or numpy. A bool is not."""
    return type(value) is int or (not isinstance(value, bool) and isinstance(value, Integral))


def is_number(value: object) -> bool:
    """Returns whether `value` is a real number of Python or numpy. A bool is not."""
    return type(value) in (int, float) or (not isinstance(value, bool) and isinstance(value, Real))


def check_int(name: str, value: object, least: int = _INT64[0], most: int = _INT64[1]) -> None:
    """Raises unless `value` is an integer from `least` to `most`; by default, one that fits in 64
    bits.
    """
    if not is_int(value) or not least <= value <= most:  # type: ignore[operator] # of unknown type to the checker alone
        raise InvalidInputError(f"{name} must be an int {_range(least, most)}, found {value!r}")


def check_optional_int(name: str, value: object, least: int = _INT64[0]) -> None:
    """Raises unless `value` is None or an integer of at least `least` that fits in 64 bits."""
    if value is not None:
        check_int(name, value, least)


def check_number(name: str, value: object, least: float = 0.0, below: float = math.inf) -> None:
    """Raises unless `value` is a finite number of at least `least` and less than `below`."""
    if not is_number(value) or not least <= value < below:  # type: ignore[operator]
        bound = "" if below == math.inf else f" and below {below:g}"
        raise InvalidInputError(
            f"{name} must be a finite number of {least:g} or more{bound}, found {value!r}"
        )


def _range(least: int, most: int) -> str:
    if (least, most) == _INT64:
        return "that fits in 64 bits"
    return f"of {least} or more" if most == _INT64[1] else f"from {least} to {most}"
