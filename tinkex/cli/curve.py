"""Draws a curve with characters: `draw` alone, `with_scale` with the largest and smallest value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bits of a braille character, by row and column of its dots."""
_BLANK = 0x2800
_MARGIN = 12  # columns left of the curve, for its scale


def with_scale(values: Sequence[float], width: int, height: int) -> Iterator[str]:
    """Yields the lines of a curve, the first and the last with the largest and smallest value."""
    finite = [value for value in values if math.isfinite(value)]
    ends = {0: max(finite, default=math.nan), height - 1: min(finite, default=math.nan)}
    for number, line in enumerate(draw(values, max(8, width - _MARGIN), height)):
        scale = f"{ends[number]:.4g}" if number in ends else ""
        yield f"{scale:>{_MARGIN - 2}} {line}"


def draw(values: Sequence[float], width: int, height: int) -> list[str]:
    """Returns lines of braille characters with a curve of the values, the oldest on the left.

    Args:
        width, height: the size in characters; each has two columns and four rows of dots. Where
            there are more values than columns, a column has the mean of its values.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return [" " * width for _ in range(height)]
    low, high = min(finite), max(finite)
    columns = _binned(values, 2 * width)
    rows = 4 * height
    cells = [[_BLANK] * width for _ in range(height)]
    before: int | None = None
    for column, value in enumerate(columns):
        if not math.isfinite(value):
            before = None
            continue
        share = (value - low) / (high - low) if high > low else 0.5
        row = round((1 - share) * (rows - 1))
        # joined with the column before, so that a steep curve has no holes
        for filled in range(*_between(before, row)):
            cells[filled // 4][column // 2] |= _DOTS[filled % 4][column % 2]
        before = row
    return ["".join(map(chr, line)) for line in cells]


def _between(before: int | None, row: int) -> tuple[int, int]:
    """Returns the rows to fill in a column: the curve's own, and those up to the one before."""
    if before is None or before == row:
        return row, row + 1
    return (row, before) if row < before else (before + 1, row + 1)


def _binned(values: Sequence[float], columns: int) -> list[float]:
    """Returns one value a column: all of them, or the mean of those that share a column."""
    if len(values) <= columns:
        return list(values)
    edges = [round(index * len(values) / columns) for index in range(columns + 1)]
    return [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
