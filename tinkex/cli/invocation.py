"""`Invocation`: what the whole command line knows of itself, also where an error ends it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import click


class Invocation:
    """The command line as it was typed, and how it wants its errors."""

    def __init__(self, args: Sequence[str] = ()) -> None:
        self.args = args
        self.json = False
        """Whether errors are written as JSON."""
        self.debug = os.environ.get("TINKEX_DEBUG", "0") not in ("", "0")
        """Whether errors are shown with their traceback."""
        self.default_format: Literal["table", "json"] | None = None
        """The format that the option before the command names, as for the official command line."""
        self.command_path = "tinkex"
        """The command that was reached, such as "tinkex run list"."""

    def note(self, command_path: str, args: Sequence[str]) -> None:
        """Notes which command was reached, and what its arguments say about errors."""
        self.command_path = command_path
        for arg in args:
            if arg == "--":
                break
            self.json |= arg == "--json" or arg.startswith("--json=")
            self.debug |= arg == "--debug"


def current() -> Invocation:
    """Returns the invocation of the running command."""
    return click.get_current_context().ensure_object(Invocation)
