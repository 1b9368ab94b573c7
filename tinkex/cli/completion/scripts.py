"""The scripts that complete commands in a shell, and where each shell looks for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from tinkex.cli.exit_codes import ExitCode
from tinkex.cli.failures import Failure, current_path


def _data() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")


def _config() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


PLACES: Mapping[str, Callable[[], Path]] = {
    "bash": lambda: _data() / "bash-completion" / "completions" / "tinkex",
    "zsh": lambda: _data() / "zsh" / "site-functions" / "_tinkex",
    "fish": lambda: _config() / "fish" / "completions" / "tinkex.fish",
}


def script(shell: str) -> str:
    """Returns the script for a shell."""
    found = get_completion_class(shell)
    assert found is not None, shell
    root = click.get_current_context().find_root().command
    return found(root, {}, "tinkex", "_TINKEX_COMPLETE").source()


def shell_in_use(given: str | None) -> str:
    """Returns the given shell, or else the user's own, which SHELL names.

    Raises:
        Failure: it is none that can be completed in.
    """
    shell = given or Path(os.environ.get("SHELL", "")).name
    if shell not in PLACES:
        raise Failure(
            f"the shell {shell or '(SHELL is not set)'} is none of {', '.join(PLACES)}",
            code=ExitCode.USAGE,
            hint=f"{current_path()} bash",
        )
    return shell
