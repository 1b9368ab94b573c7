"""The command `tinkex checkpoint set-ttl`."""

from __future__ import annotations

import click

from tinkex.cli import complete
from tinkex.cli.arguments import Duration, seconds_as_text
from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.output import Output


@data_command(
    "set-ttl",
    help="Set the time after which a checkpoint is deleted.",
    fields=("path", "ttl_seconds"),
    examples=[
        "tinkex checkpoint set-ttl PATH --ttl 7d",
        "tinkex checkpoint set-ttl PATH --remove",
    ],
    id_field="path",
)
@click.argument("path", shell_complete=complete.paths)
@click.option("--ttl", type=Duration(), help="Seconds from now, or a duration such as 12h or 7d.")
@click.option("--remove", is_flag=True, help="Keep the checkpoint for ever.")
@connection_options
def command(
    output: Output, connection: Connection, path: str, ttl: int | None, remove: bool
) -> None:
    """Sets or removes the lifetime of a checkpoint."""
    from tinkex.cli.checkpoint.lookup import suggesting_paths

    if (ttl is None) != remove:
        raise click.UsageError("give one of --ttl and --remove")
    with suggesting_paths(connection.rest, path):
        connection.rest.set_checkpoint_ttl_from_tinker_path(path, ttl)
    output.record({"path": path, "ttl_seconds": ttl})
    output.status(
        "It is kept for ever." if ttl is None else f"It is deleted in {seconds_as_text(ttl)}."
    )
