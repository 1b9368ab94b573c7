"""Writes rows as CSV, to a file or to stdout."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinkex.cli.fetch import whole_file
from tinkex.cli.output import Output, as_data


def write_csv(
    output: Output, target: str, fields: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Writes the rows with a header to a file, or to stdout for the target "-"."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: as_data(row[name]) for name in fields} for row in rows)
    if target == "-":
        output.out.write(text.getvalue())
        return
    with whole_file(Path(target)) as file:
        file.write(text.getvalue().encode())
    output.status(f"{target}: {len(rows)} rows")
