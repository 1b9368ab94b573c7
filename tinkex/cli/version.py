"""The command `tinkex version`."""

from __future__ import annotations

from tinkex._version import __version__
from tinkex.cli.command import command as data_command
from tinkex.cli.output import Output


@data_command(
    "version",
    help="Print the version.",
    fields=("client",),
    examples=["tinkex version", "tinkex version --json"],
    id_field="client",
)
def command(output: Output) -> None:
    """Prints the version."""
    output.record({"client": __version__})
