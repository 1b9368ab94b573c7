"""The drop-in: programs written for the official SDK `tinker` run on tinkex, unmodified.

After `install()`, `import tinker` gives modules made of tinkex's own names, in this process and in
those that it starts, whether the official package is installed or not:

    import tinkex.dropin

    tinkex.dropin.install()

    import tinker  # is tinkex

`tinkex exec script.py` and `python -m tinkex.dropin script.py` run a program so without a change.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

from tinkex.dropin.finder import DropInFinder
from tinkex.dropin.modules import DropInModule
from tinkex.dropin.table import PACKAGE

__all__ = ["FOLDER", "install", "installed", "put_first"]

FOLDER = Path(__file__).parent / "path"
"""A folder with a package `tinker` that installs the drop-in, for the PYTHONPATH of a process."""


COMMANDS = Path(__file__).parent / "bin"
"""A folder with the command `tinker`, which runs `tinkex`, for the PATH of a process."""


def install() -> None:
    """Makes `import tinker` give tinkex, in this process and in Python processes that it starts.

    Call it before anything imports `tinker`, for example at the head of a script or of a
    conftest.py. Calling it again does nothing. New processes find the drop-in by PYTHONPATH, which
    this call sets.

    Raises:
        ImportError: the official package was imported already; programs hold names of it that
            cannot be replaced.
    """
    imported = sys.modules.get(PACKAGE)
    if imported is not None and not isinstance(imported, DropInModule):
        raise ImportError(
            f"{PACKAGE} was imported from {getattr(imported, '__file__', None)} before "
            "tinkex.dropin.install() was called, so that the program already uses it. Call "
            "install() before the first import of tinker, or of a package that imports it, or run "
            "the program by `tinkex exec`.",
            name=PACKAGE,
        )
    if not installed():
        sys.meta_path.insert(0, DropInFinder())
    folder = str(FOLDER)
    if folder not in sys.path:  # multiprocessing gives this list to the processes that it spawns
        sys.path.insert(0, folder)
    put_first(os.environ)


def installed() -> bool:
    """Returns whether `import tinker` gives tinkex in this process."""
    return any(isinstance(finder, DropInFinder) for finder in sys.meta_path)


def put_first(environment: MutableMapping[str, str]) -> None:
    """Puts the drop-in first on the PYTHONPATH of an environment, for processes that start with
    it.

    The command `tinker` and this interpreter's commands come last on PATH: a `tinker` that is there
    already imports the drop-in, too.
    """
    folder = str(FOLDER)
    before = environment.get("PYTHONPATH")
    rest = [entry for entry in before.split(os.pathsep) if entry != folder] if before else []
    environment["PYTHONPATH"] = os.pathsep.join((folder, *rest))
    places = environment.get("PATH", os.defpath).split(os.pathsep)
    own = (str(COMMANDS), str(Path(sys.executable).parent))
    environment["PATH"] = os.pathsep.join((*places, *(one for one in own if one not in places)))
