"""The command `tinkex completion show`."""

from __future__ import annotations

import click

from tinkex.cli.command import command as data_command
from tinkex.cli.output import Output


@data_command(
    "show",
    help="Print the script that completes commands in a shell.",
    fields=("shell", "script"),
    examples=["tinkex completion show bash", "tinkex completion show zsh"],
    id_field="shell",
)
@click.argument("shell", required=False, metavar="[bash|zsh|fish]")
def command(output: Output, shell: str | None) -> None:
    """Prints a script."""
    from tinkex.cli.completion.scripts import script, shell_in_use

    shell = shell_in_use(shell)
    if output.mode in ("json", "quiet"):
        output.record({"shell": shell, "script": script(shell)})
    else:
        output.text(script(shell), end="")
