"""Tables for a terminal: cut to its width, and printed by rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import frozen
from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    from rich.console import Console

_GAP = 2  # columns of space between two columns of a table
_LEAST = 6  # columns that are left of a cell that is cut


@frozen
class Fitted:
    """Rows that fit a width, and the numbers of the columns in which something was cut."""

    rows: list[list[str]]
    cut: list[int]


def cut_to_width(rows: Sequence[Sequence[str]], room: int | None, keep: int | None) -> Fitted:
    """Returns the rows, with the widest cells shortened until they fit.

    Args:
        rows: rows of cells, the header among them.
        room: the width in columns; None for no limit.
        keep: the number of the column that is cut last, such as that of the ids.
    """
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    least = [min(width, _LEAST) for width in widths]
    excess = 0 if room is None else sum(widths) + _GAP * (len(widths) - 1) - room
    others = [index for index in range(len(widths)) if index != keep]
    allowed = list(widths)
    for group in (others, [] if keep is None else [keep]):
        while excess > 0 and (wide := [i for i in group if allowed[i] > least[i]]):
            allowed[max(wide, key=lambda i: allowed[i])] -= 1
            excess -= 1
    cut = [
        i for i, (before, after) in enumerate(zip(widths, allowed, strict=True)) if after < before
    ]
    return Fitted(
        [[_cut(cell, width) for cell, width in zip(row, allowed, strict=True)] for row in rows], cut
    )


def _cut(cell: str, width: int) -> str:
    return cell if cell_len(cell) <= width else f"{set_cell_size(cell, width - 1).rstrip()}…"


def print_table(
    console: Console, header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]
) -> None:
    """Prints a table without lines. `right` says which columns are aligned on the right."""
    from rich.table import Table

    if not rows:
        return
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for name, is_right in zip(header, right, strict=True):
        table.add_column(name, justify="right" if is_right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    widths = [max(map(cell_len, column)) for column in zip(header, *rows, strict=True)]
    before, console.width = console.width, sum(widths) + _GAP * len(widths)
    console.print(table)
    console.width = before
