"""Sizes, times and numbers as text."""

from __future__ import annotations

import pytest

from tinkex_server import formatting


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_900, "99.9 kB"),
        (490_123, "490 kB"),
        (999_600, "1.0 MB"),
        (10**16, "10000 TB"),
    ],
)
def test_sizes(count: int, said: str) -> None:
    assert formatting.size(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1.0, "0 s"), (0.9, "0 s"), (59.9, "59 s"), (60, "1 min"), (7300, "2 h"), (200_000, "2 d")],
)
def test_spans(seconds: float, said: str) -> None:
    assert formatting.span(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0071234, "0.00712"), (12.345, "12.3"), (-3.0, "-3"), (123456.7, "123,457")],
)
def test_numbers(value: float, said: str) -> None:
    assert formatting.number(value) == said


def test_a_moment_is_in_utc() -> None:
    assert formatting.moment(0.0) == "1970-01-01 00:00:00"
