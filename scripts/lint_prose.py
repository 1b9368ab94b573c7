"""Checks that docstrings are sentences: a function's begins with a verb, and none begins with a
clause that has lost its subject, such as "Whose it is".

A function's docstring begins with a verb in the third person ("Returns", "Sends"), a class's with a
noun phrase that names the thing, a property's and an attribute's with a noun phrase or "Whether".
Tests and fixtures are named by what they show, so that only the openings are checked there.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("tinkex", "tinkex_server", "generated", "scripts", "benchmarks", "examples", "tests")
NO_SUBJECT = frozenset(
    {"As", "By", "For", "From", "How", "If", "In", "Of", "On", "So", "That", "Those", "To"}
    | {"What", "When", "Where", "Which", "Who", "Whose", "With"}
)
"""First words after which no subject comes, or a verb that nobody does."""
NOUNS = frozenset(
    {"Always", "Bytes", "Errors", "Files", "Ids", "Is", "Its", "Keys", "Lines", "Losses", "Names"}
    | {"Numbers", "Paths", "Perhaps", "Pieces", "Results", "Rows", "Seconds", "Settings", "Steps"}
    | {"Texts", "This", "Tokens", "Values", "Was", "Words"}
)
"""First words that end as verbs of the third person do, and are none."""
VERB = re.compile(r"[A-Z][a-z-]*s$")
PROPERTIES = ("property", "cached_property", "setter", "fixture")


@frozen
class Problem:
    """A docstring that breaks the rule."""

    path: Path
    line: int
    words: str
    rule: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.rule}: {self.words}"


def problems(path: Path) -> Iterator[Problem]:
    """Yields what breaks the rule in one module."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if text := ast.get_docstring(node):
                rule = broken_rule(node, text, is_test=path.name.startswith("test_"))
                if rule:
                    line = node.body[0].lineno
                    yield Problem(path, line, text.split("\n")[0], rule)
            yield from _attributes(path, node.body)


def first_word(text: str) -> str:
    """Returns the first word of a text."""
    return re.split(r"[\s:,]", text, maxsplit=1)[0]


def is_verb(word: str) -> bool:
    """Returns whether a first word is a verb in the third person, as far as its form tells."""
    return word not in NOUNS and VERB.match(word) is not None


def broken_rule(node: ast.AST, text: str, *, is_test: bool) -> str | None:
    """Returns the rule that a docstring breaks, or None."""
    first = first_word(text)
    if first in NO_SUBJECT:
        return f"{first!r} begins a clause without a subject"
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_test:
        return None
    decorators = {ast.unparse(decorator).split("(")[0] for decorator in node.decorator_list}
    if any(name.endswith(PROPERTIES) for name in decorators):
        return None
    if not is_verb(first):
        return "a function's docstring begins with a verb in the third person"
    return None


def _attributes(path: Path, body: list[ast.stmt]) -> Iterator[Problem]:
    """Yields what breaks the rule in the texts below assignments."""
    for before, node in pairwise(body):
        if (
            isinstance(before, ast.Assign | ast.AnnAssign)
            and isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            text = node.value.value
            if rule := broken_rule(node, text, is_test=False):
                yield Problem(path, node.lineno, text.split("\n")[0], rule)


def main() -> int:
    """Prints what breaks the rule below the folders named, by default all; returns the status."""
    paths = [ROOT / folder for folder in sys.argv[1:] or FOLDERS]
    files = sorted(
        file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py"))
    )
    found = [problem for file in files for problem in problems(file)]
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
