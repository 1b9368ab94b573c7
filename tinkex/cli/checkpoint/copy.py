"""The command `tinkex checkpoint copy`."""

from __future__ import annotations

import click

from tinkex.cli import complete
from tinkex.cli.arguments import Duration
from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.output import Output


@data_command(
    "copy",
    help="Copy a checkpoint to a project.",
    fields=("path", "copy", "project", "ttl_seconds"),
    examples=["tinkex checkpoint copy PATH --project-id PROJECT"],
    id_field="copy",
)
@click.argument("path", shell_complete=complete.paths)
@click.option(
    "--project-id", metavar="PROJECT", help="Project of the copy.  [default: TINKER_PROJECT_ID]"
)
@click.option("--ttl", type=Duration(), help="Time after which the copy is deleted, such as 7d.")
@connection_options
def command(
    output: Output, connection: Connection, path: str, project_id: str | None, ttl: int | None
) -> None:
    """Copies a checkpoint."""
    from tinkex.cli.checkpoint.lookup import suggesting_paths

    project = project_id or connection.config.project_id
    if project is None:
        raise click.UsageError("give the project of the copy: --project-id, or TINKER_PROJECT_ID")
    with suggesting_paths(connection.rest, path):
        copy = connection.rest.copy_weights(path, project, ttl_seconds=ttl)
    output.record({"path": path, "copy": str(copy), "project": project, "ttl_seconds": ttl})
