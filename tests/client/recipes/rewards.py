"""Functions that score answers, for the tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def vowels(row: Mapping[str, Any], answer: str) -> float:
    """Returns the share of vowels among the letters of an answer."""
    return sum(letter in "aeiou" for letter in answer) / max(1, len(answer))


def fails(row: Mapping[str, Any], answer: str) -> float:
    return 1 / 0


def same(row: Mapping[str, Any], answer: str) -> float:
    return 0.1


def nothing(row: Mapping[str, Any], answer: str) -> None:
    return None


async def waits(row: Mapping[str, Any], answer: str) -> float:
    return 1.0


def takes_one(answer: str) -> float:
    return 1.0
