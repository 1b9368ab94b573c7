"""The Python code in docs/ runs as it stands, but for the URL: the blocks of a page one after
another, as a reader pastes them.
"""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest

import tinkex
from tinkex import events
from tinkex.local import Server

DOCS = Path(__file__).parents[2] / "docs"
URL = re.compile('"(http://127.0.0.1:8765|local)"')
OWN_TESTS = ("testing.md", "embedded_server.md")
"""Pages whose examples `test_readme.py` runs, each in a way of its own."""


def code(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


PAGES = [page for page in sorted(DOCS.rglob("*.md")) if code(page) and page.name not in OWN_TESTS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(
    page: Path, torch_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(events, "_listeners", ())  # handlers that a page attaches end with it
    monkeypatch.setenv("TINKER_API_KEY", "tml-test")
    names: dict[str, object] = {}
    for number, block in enumerate(code(page), start=1):
        script = dedent(URL.sub(f'"{torch_server.base_url}"', block))
        exec(compile(script, f"{page.name}, block {number}", "exec"), names)


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
