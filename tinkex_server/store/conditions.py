"""The conditions of searches, in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

Condition: TypeAlias = tuple[str, list[Any]]
"""SQL with placeholders, and the values for them."""


def among(expression: str, values: Sequence[str]) -> Condition:
    """Returns the condition that an expression has one of these values."""
    return f"{expression} IN ({', '.join('?' * len(values))})", [*values]


def has_pair(column: str, key: str, value: str) -> Condition:
    """Returns the condition that a column, which holds a JSON object, has this pair."""
    return f"EXISTS (SELECT 1 FROM json_each({column}) WHERE key = ? AND value = ?)", [key, value]


def all_of(parts: Sequence[Condition]) -> Condition:
    """Returns the condition that all of these hold."""
    condition = " AND ".join(condition for condition, _ in parts) or "TRUE"
    return condition, [value for _, values in parts for value in values]
