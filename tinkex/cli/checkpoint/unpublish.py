"""The command `tinkex checkpoint unpublish`."""

from __future__ import annotations

import click

from tinkex.cli import complete
from tinkex.cli.checkpoint.access import FIELDS, change
from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.output import Output


@data_command(
    "unpublish",
    help="Make a checkpoint readable for its owner only.",
    fields=FIELDS,
    examples=["tinkex checkpoint unpublish PATH"],
    id_field="path",
)
@click.argument("path", shell_complete=complete.paths)
@connection_options
def command(output: Output, connection: Connection, path: str) -> None:
    """Makes a checkpoint private."""
    rest = connection.rest
    change(output, rest, path, rest.unpublish_checkpoint_from_tinker_path, public=False)
