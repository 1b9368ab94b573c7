"""The command `tinkex checkpoint list`."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

import click

from tinkex.cli import complete
from tinkex.cli.checkpoint.rows import COLUMNS, FIELDS, KINDS, row_of
from tinkex.cli.command import command as data_command
from tinkex.cli.command import listing_options
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.output import Output

if TYPE_CHECKING:
    from tinkex.types import Checkpoint


@data_command(
    "list",
    help="List checkpoints, newest first.",
    fields=FIELDS,
    examples=["tinkex checkpoint list --run RUN", "tinkex checkpoint list --all --json=path"],
    id_field="path",
)
@click.option(
    "--run",
    "--run-id",
    "run_id",
    metavar="RUN",
    shell_complete=complete.runs,
    help="Only those of a training run.",
)
@click.option("--type", "kind", type=click.Choice(KINDS), help="Only those of a kind.")
@listing_options
@connection_options
def command(
    output: Output, connection: Connection, run_id: str | None, kind: str | None, limit: int | None
) -> None:
    """Lists the checkpoints of the user, or of one run."""
    rows = (row_of(one) for one in _found(connection, run_id))
    wanted = (row for row in rows if kind is None or row["kind"] == kind)
    written = output.table(islice(wanted, limit), COLUMNS)
    output.listed(written, limit, "checkpoints")


def _found(connection: Connection, run_id: str | None) -> Iterable[Checkpoint]:
    if run_id is None:
        return connection.rest.iter_user_checkpoints()
    from tinkex.cli.run.lookup import suggesting_runs

    with suggesting_runs(connection.rest, run_id):
        found = connection.rest.list_checkpoints(run_id).checkpoints
    return sorted(found, key=lambda one: one.time.timestamp() if one.time else 0.0, reverse=True)
