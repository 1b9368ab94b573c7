"""Validators of numbers, for the fields of settings classes.

Each raises a `ConfigError` that names the setting, or the variable that it came from, and the
allowed values.
"""

from __future__ import annotations

from typing import Any, TypeGuard

from tinkex.errors import ConfigError


def positive(settings: object, attribute: Any, value: float) -> None:
    if not (_is_number(value) and value > 0):
        raise _refused(settings, attribute, value, "greater than 0")


def not_negative(settings: object, attribute: Any, value: float) -> None:
    if not (_is_number(value) and value >= 0):
        raise _refused(settings, attribute, value, "at least 0")


def at_least_1(settings: object, attribute: Any, value: float) -> None:
    if not (_is_number(value) and value >= 1):
        raise _refused(settings, attribute, value, "at least 1")


def whole_and_not_negative(settings: object, attribute: Any, value: float) -> None:
    if _is_number(value) and not isinstance(value, int):
        raise _refused(settings, attribute, value, "a whole number")
    not_negative(settings, attribute, value)


def name_of(settings: object, attribute: str) -> str:
    """Returns the name of a setting for messages: the variable or profile entry that its value came
    from, else a name like `Config.timeout`.
    """
    sources = getattr(settings, "sources", None)
    found = sources.found.get(attribute) if sources is not None else None
    if (
        found is not None
        and found.origin != "default"
        and found.value == getattr(settings, attribute)
    ):
        return found.name
    return f"{type(settings).__name__}.{attribute}"


def _refused(settings: object, attribute: Any, value: object, allowed: str) -> ConfigError:
    expected = allowed if _is_number(value) else "a number"
    return ConfigError(f"{name_of(settings, attribute.name)} must be {expected}, not {value!r}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
