"""The notebooks of examples/ run as they are, each in a kernel of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tinkex.local import Server

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples" / "notebooks").glob("*.ipynb"))
SECONDS = 120  # for one cell
SHOWN = {"first_run": "image/png", "asyncio_loop": "text/html", "checkpoints": "text/html"}
"""A kind of output that a notebook has beside text, which a person sees in it."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(
    path: Path, torch_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", torch_server.base_url)
    monkeypatch.setenv("TINKER_API_KEY", "tml-test")
    notebook: Any = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "its outputs were committed"
    # a cell that raises ends it with an error
    NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    shown = {
        kind
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        for kind in output.get("data", ())
    }
    assert SHOWN[path.stem] in shown
