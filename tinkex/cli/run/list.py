"""The command `tinkex run list`."""

from __future__ import annotations

from itertools import islice

import click

from tinkex.cli.command import command as data_command
from tinkex.cli.command import listing_options
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.field_names import named_fields
from tinkex.cli.output import Output
from tinkex.cli.run.rows import COLUMNS, FIELDS, row_of


@data_command(
    "list",
    help="List training runs, newest first.",
    fields=FIELDS,
    examples=["tinkex run list --limit 5", "tinkex run list --all --json=id,model,checkpoint"],
)
@click.option(
    "-c",
    "--columns",
    metavar="COLUMN,…",
    help=f"Columns to show, of {', '.join(FIELDS)}.  [default: {','.join(COLUMNS)}]",
)
@listing_options
@connection_options
def command(output: Output, connection: Connection, columns: str | None, limit: int | None) -> None:
    """Lists the training runs of the user."""
    chosen = named_fields(columns, "--columns", FIELDS) if columns else COLUMNS
    runs = connection.rest.iter_training_runs(page_size=min(limit or 100, 100))
    written = output.table(map(row_of, islice(runs, limit)), chosen)
    output.listed(written, limit, "training runs")
