"""The command `tinkex version`."""

from __future__ import annotations

import click

from tinkex._version import __version__


@click.command("version", help="Print the version.")
def command() -> None:
    """Prints the version."""
    click.echo(__version__)
