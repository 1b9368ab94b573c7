"""The command `tinkex completion install`."""

from __future__ import annotations

import click

from tinkex.cli.command import command as data_command
from tinkex.cli.output import Output


@data_command(
    "install",
    help="Write the script of a shell to the place where the shell looks for it.",
    fields=("shell", "file"),
    examples=["tinkex completion install", "tinkex completion install fish"],
    id_field="file",
)
@click.argument("shell", required=False, metavar="[bash|zsh|fish]")
def command(output: Output, shell: str | None) -> None:
    """Writes a script. It changes no file of the user's."""
    from tinkex.cli.completion.scripts import PLACES, script, shell_in_use
    from tinkex.cli.fetch import whole_file

    shell = shell_in_use(shell)
    place = PLACES[shell]()
    with whole_file(place) as file:
        file.write(script(shell).encode())
    output.record({"shell": shell, "file": str(place)})
    if shell == "zsh":
        output.status(f"Add to ~/.zshrc, before compinit: fpath=({place.parent} $fpath)")
    output.status("It works in every new shell.")
