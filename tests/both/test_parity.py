"""The names of tinkex in docs/parity.md exist, and so do the tests that it names."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from attrs import frozen

TESTS = Path(__file__).parents[1]
COLUMNS = (4, 5)
"""Name there, ours, test, remark; before the last, of the official SDK, types and behaviour, by
tests/official/side_by_side.py.
"""


@frozen
class Row:
    name: str
    ours: list[str]
    tests: list[str]
    remark: str


def table() -> list[Row]:
    lines = (TESTS.parent / "docs" / "parity.md").read_text().splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in lines
        if line.startswith("| `")
    ]
    assert all(len(row) in COLUMNS for row in cells), [
        row for row in cells if len(row) not in COLUMNS
    ]
    return [Row(row[0], in_code(row[1]), in_code(row[2]), row[-1]) for row in cells]


def in_code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


ROWS = table()
OURS = sorted(
    {
        name
        for row in ROWS
        for name in [*row.ours, *in_code(row.remark)]
        if re.fullmatch(r"tinkex(\.\w+)+", name)
    }
)
NAMED = sorted({test for row in ROWS for test in row.tests})


def found(path: str) -> object:
    """Returns the object at a dotted path: a package, then attributes or modules of it."""
    here: object = import_module("tinkex")
    walked = "tinkex"
    for part in path.split(".")[1:]:
        walked = f"{walked}.{part}"
        here = getattr(here, part) if hasattr(here, part) else import_module(walked)
    return here


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text())
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_each_row_has_a_name_of_tinkex_and_a_test_or_a_reason() -> None:
    assert len(ROWS) > 300, "the tables are read"
    for row in ROWS:
        assert bool(row.ours) == bool(row.tests), f"{row.name}: ours and a test go together"
        assert row.ours or len(row.remark) > 1, f"{row.name}: neither ours nor a reason"
        assert all(name in OURS for name in row.ours), (
            f"{row.name}: {row.ours} is no path from tinkex"
        )


@pytest.mark.parametrize("path", OURS)
def test_a_listed_name_of_tinkex_exists(path: str) -> None:
    assert found(path) is not None


@pytest.mark.parametrize("test", NAMED)
def test_a_listed_test_exists(test: str) -> None:
    file, name = test.split("::")
    assert name in functions(file), f"no {name} in tests/{file}"


@pytest.mark.parametrize("gone", ["tinkex.TrainingClient.no_such_call", "tinkex.no_such_module.f"])
def test_a_name_that_no_longer_exists_is_noticed(gone: str) -> None:
    with pytest.raises((AttributeError, ImportError)):
        found(gone)
