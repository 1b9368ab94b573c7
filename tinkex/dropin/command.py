"""The running of a program with the drop-in: `tinkex exec` and `python -m tinkex.dropin`.

The program takes the place of this process, so that its exit status, its signals and its terminal
are its own. It finds the drop-in by PYTHONPATH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from tinkex.dropin import put_first
from tinkex.errors import ConfigError

_OPTIONS_OF_PYTHON = ("-m", "-c")


def run(command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Replaces this process by the program, which imports tinkex as `tinker`.

    Args:
        command: a Python script or `-m module`, with its arguments, or a command and its arguments.
            A command without a folder is looked for beside this interpreter first, so that `python`
            is this one.
        environment: the environment of the program, to which the drop-in is added.

    Raises:
        ConfigError: there is no such command.
    """
    ready = dict(environment)
    put_first(ready)
    program, *arguments = resolved(command, ready)
    sys.stdout.flush()
    sys.stderr.flush()
    if sys.platform == "win32":  # exec there leaves the caller before the program has ended
        sys.exit(subprocess.run([program, *arguments], env=ready, check=False).returncode)
    os.execve(program, [program, *arguments], ready)


def resolved(command: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Returns the command with the path of its program.

    Raises:
        ConfigError: the command is empty, or there is no such program.
    """
    if not command:
        raise ConfigError(
            "there is no program to run",
            advice="For example `tinkex exec train.py`, or `tinkex exec -- python -m train`.",
        )
    name = command[0]
    if name in _OPTIONS_OF_PYTHON or name.endswith(".py"):
        return [sys.executable, *command]
    folder = str(Path(sys.executable).parent)
    places = os.pathsep.join((folder, environment.get("PATH", os.defpath)))
    found = shutil.which(name, path=places)
    if found is None:
        raise ConfigError(
            f"there is no command {name!r} beside {sys.executable} or on PATH",
            advice="A Python script ends with .py; a module is run by `python -m package.module`.",
        )
    return [found, *command[1:]]
