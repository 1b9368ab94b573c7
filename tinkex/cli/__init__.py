"""The command `tinkex`. Each subcommand is a module, which is imported when the command runs."""

from __future__ import annotations

import importlib

import click

_COMMANDS = {
    "bridge": "Let programs of the official SDK use any server.",
    "exec": "Run a program for the official SDK on tinkex.",
    "serve": "Run the embedded server.",
    "version": "Print the version.",
}


class _LazyGroup(click.Group):
    """A group that lists its commands without importing them.

    `tinkex --help` is therefore fast and does not need the optional dependencies.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        return importlib.import_module(f"tinkex.cli.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=_LazyGroup, help="Tinkex: the Tinker fine-tuning API, as a client and as a server."
)
def main() -> None:
    """Runs the command `tinkex`."""
