"""`Terminal`: what one stream can show, judged from the stream itself and from the environment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TextIO

from attrs import frozen

if TYPE_CHECKING:
    from rich.console import Console

ColorChoice = Literal["auto", "always", "never"]
UNBOUNDED = 1 << 20
"""The width, in columns, of a stream that is not a terminal."""


@frozen
class Terminal:
    """The abilities of a stream: whether it is a terminal, its width, and whether it has colors.

    `TINKEX_FORCE_TTY=COLUMNS` makes a terminal of that width of any stream, for tests and pagers.
    """

    is_tty: bool
    width: int
    color: bool
    moves_cursor: bool
    """Whether lines can be written over, as progress bars need."""

    @classmethod
    def of(
        cls,
        stream: TextIO,
        choice: ColorChoice = "auto",
        environment: Mapping[str, str] = os.environ,
    ) -> Terminal:
        forced = environment.get("TINKEX_FORCE_TTY", "")
        columns = int(forced) if forced.isdecimal() else 0
        is_tty = columns > 0 or stream.isatty()
        is_dumb = environment.get("TERM") == "dumb"
        width = columns or (shutil.get_terminal_size().columns if is_tty else UNBOUNDED)
        return cls(
            is_tty,
            width,
            _has_color(choice, environment, is_tty and not is_dumb),
            is_tty and not is_dumb,
        )

    def console(self, stream: TextIO) -> Console:
        """Returns a console of rich that writes to the stream what it can show."""
        from rich.console import Console

        system: Literal["auto", "standard"] | None = None
        if self.color:
            system = "auto" if self.moves_cursor else "standard"
        return Console(
            file=stream,
            width=self.width if self.is_tty else None,
            force_terminal=self.is_tty,
            force_interactive=self.moves_cursor,
            color_system=system,
            no_color=not self.color,
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=True,
        )


def _has_color(choice: ColorChoice, environment: Mapping[str, str], capable: bool) -> bool:
    if choice != "auto":
        return choice == "always"
    if environment.get("NO_COLOR"):
        return False
    if environment.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return capable and environment.get("CLICOLOR") != "0"
