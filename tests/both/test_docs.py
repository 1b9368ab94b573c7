"""The Python code in docs/ runs as it stands, but for the URL: the blocks of a page one after
another, as a reader pastes them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import tinkex
from tests.support.markdown import python_blocks
from tinkex.local import Server

DOCS = Path(__file__).parents[2] / "docs"
URL = re.compile('"(http://127.0.0.1:8765|local)"')
WITH_LASTING_EFFECTS = ("moving.md", "telemetry.md")
"""Pages that attach handlers or install an import hook: they run in a process of their own."""
OWN_TESTS = ("testing.md", "embedded_server.md")
"""Pages whose examples `test_readme.py` runs, each in a way of its own."""


PAGES = [
    page
    for page in sorted(DOCS.rglob("*.md"))
    if python_blocks(page) and page.name not in OWN_TESTS
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(
    page: Path, torch_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINKER_API_KEY", "tml-test")
    blocks = [dedent(URL.sub(f'"{torch_server.base_url}"', block)) for block in python_blocks(page)]
    if page.name in WITH_LASTING_EFFECTS:
        subprocess.run([sys.executable, "-c", "\n".join(blocks)], check=True, timeout=60)
        return
    names: dict[str, object] = {}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


def test_the_page_of_errors_has_every_error() -> None:
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    errors = {
        name
        for name in dir(tinkex)
        if isinstance(value := getattr(tinkex, name), type)
        and issubclass(value, tinkex.TinkexError)
    }
    assert len(errors) > 30
    assert errors <= set(re.findall(r"`(\w+)`", page))
