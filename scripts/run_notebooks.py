"""Executes the notebooks of examples/notebooks, all on one embedded server: `make notebooks`.

A cell that raises ends it with an error. The files stay as they are, without outputs.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import tinkex.local

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "notebooks"
_CELL_SECONDS = 300


def main() -> int:
    """Executes each notebook. Returns the exit status."""
    failed = 0
    with tinkex.local.serve() as server:
        os.environ["TINKER_BASE_URL"] = server.base_url
        for path in sorted(FOLDER.glob("*.ipynb")):
            began = time.monotonic()
            try:
                outputs = execute(path)
            except CellExecutionError as error:
                failed += 1
                print(f"{path.name} failed:\n{error}")
            else:
                print(f"{path.name}: {outputs} cells shown, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


def execute(path: Path) -> int:
    """Executes a notebook in a kernel of its own, and returns how many cells have an output.

    Raises `CellExecutionError` if a cell raises.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=_CELL_SECONDS, kernel_name="python3").execute()
    if folder := os.environ.get("NOTEBOOKS_OUT"):
        nbformat.write(notebook, Path(folder) / path.name)
    return sum(bool(cell.get("outputs")) for cell in notebook.cells)


if __name__ == "__main__":
    sys.exit(main())
