"""The tables of a run of benchmarks: printed, and written to docs/performance.md by a whole run."""

from __future__ import annotations

import os
import platform
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scripts.official_sdk import ROOT

PAGE = ROOT / "docs" / "performance.md"
_COLLECTED = "TINKEX_BENCH_TABLES"
"""The variable that names the file where the processes of a whole run collect their tables."""
_BEGIN, _END = "<!-- figures of make bench -->\n", "<!-- end of the figures -->\n"


def show(table: Table) -> None:
    """Prints a table, and adds it to those of the run."""
    Console().print(table)
    if place := os.environ.get(_COLLECTED):
        with Path(place).open("a") as file:
            file.write(f"{as_markdown(table)}\n")


def collect_in(place: Path) -> None:
    """Lets this process, and those that it starts, collect their tables in a file."""
    os.environ[_COLLECTED] = str(place)


def as_markdown(table: Table) -> str:
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    first, *rows = [f"| {' | '.join(cells)} |\n" for cells in zip(*columns, strict=True)]
    aligned = ("--:" if column.justify == "right" else "---" for column in table.columns)
    return "".join((first, f"| {' | '.join(aligned)} |\n", *rows))


def write_page(tables: str, minutes: float) -> None:
    """Puts the tables of a whole run into docs/performance.md, in place of those before."""
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    after = rest.partition(_END)[2]
    said = (
        f"Written by `make bench` on {date.today()}, in {minutes:.0f} minutes, on "
        f"{os.cpu_count()} cores ({_processor()}).\n"
    )
    PAGE.write_text(f"{before}{_BEGIN}\n{said}\n{tables}{_END}{after}")


def _processor() -> str:
    """Returns the name of the processor, as far as the system tells it."""
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    return text.partition("model name\t: ")[2].partition("\n")[0] or platform.machine()
