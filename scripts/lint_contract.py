"""Checks openapi/tinker.yaml: that it is OpenAPI 3.1, that its texts open as they should, and, if
node is installed, that Redocly's linter finds no fault in it.

A text is read alone, as a docstring or on the page of the API. An operation's summary begins with a
verb in the third person ("Returns"). The text of an attribute (a field, a parameter or a header) is
a noun phrase without an article, or begins with "Whether"; it has three words at least. A field
that refers to a schema has a text of its own, which says what the value is in this place. No text
begins with a clause or a pronoun that has lost what it refers to, such as "What it is for" and
"Its name".
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from lint_prose import NO_SUBJECT, first_word, is_verb

CONTRACT = Path(__file__).resolve().parents[1] / "openapi" / "tinker.yaml"
LINTER = "@redocly/cli@2.77.0"
QUIET = {
    "REDOCLY_TELEMETRY": "off",
    "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true",
    "NPM_CONFIG_UPDATE_NOTIFIER": "false",
}
METHODS = ("delete", "get", "patch", "post", "put")
ARTICLES = frozenset({"A", "An", "The"})
LOST = frozenset({"Facts", "He", "It", "Its", "She", "Their", "Them", "These", "They", "This"})
"""First words that refer to something, or say nothing of it."""
CLAUSE = re.compile(r"[^.]*: (how|what|when|where|which|whose|why)\b")
"""A clause after a label, such as `image: where the file is`."""
FEWEST_WORDS = 3


def problems(contract: dict[str, Any]) -> Iterator[str]:
    """Yields the places of texts that break a rule, with the rule and the text."""
    parts = contract["components"]
    for item in contract["paths"].values():
        for operation in (item[method] for method in METHODS if method in item):
            yield from _of_operation(operation)
    for kind in ("parameters", "headers"):
        for name, value in parts.get(kind, {}).items():
            yield from _of_attribute(f"{kind}.{name}", value)
    for name, value in parts.get("responses", {}).items():
        yield from _of_text(f"responses.{name}", value.get("description", ""))
    for name, schema in parts["schemas"].items():
        yield from _of_text(name, schema.get("description", ""))
        for field, value in schema.get("properties", {}).items():
            yield from _of_attribute(f"{name}.{field}", value)


def _of_operation(operation: dict[str, Any]) -> Iterator[str]:
    place, summary = operation["operationId"], operation.get("summary", "")
    if not is_verb(first_word(summary)):
        yield f"{place}: a summary begins with a verb in the third person: {summary}"
    if first_word(operation.get("description", "")) in LOST | {""}:
        yield f"{place}: has no description, or one that begins with a pronoun"
    for status, answer in operation["responses"].items():
        if "$ref" not in answer:
            yield from _of_text(f"{place}.{status}", answer.get("description", ""))
    for parameter in operation.get("parameters", ()):
        if "$ref" not in parameter:
            yield from _of_attribute(f"{place}.{parameter['name']}", parameter)


def _of_attribute(place: str, attribute: dict[str, Any]) -> Iterator[str]:
    text = attribute.get("description", "")
    yield from _of_text(place, text)
    if first_word(text) in ARTICLES:
        yield f"{place}: an attribute's text has no article at its beginning: {text}"
    if CLAUSE.match(text):
        yield f"{place}: a clause stands in place of a noun phrase: {text}"
    if len(text.split()) < FEWEST_WORDS and not text.startswith("`"):
        yield f"{place}: an attribute's text has three words at least: {text}"


def _of_text(place: str, text: str) -> Iterator[str]:
    if not text.strip().endswith((".", "|")):
        yield f"{place}: no text, or no full stop at its end: {text}"
    elif first_word(text) in NO_SUBJECT | LOST:
        yield f"{place}: {first_word(text)!r} begins a text without a subject: {text}"


def is_valid() -> bool:
    """Returns whether the contract is OpenAPI 3.1; prints why it is not."""
    command = [sys.executable, "-m", "openapi_spec_validator", CONTRACT.name]
    return subprocess.run(command, cwd=CONTRACT.parent).returncode == 0


def passes_redocly() -> bool:
    """Returns whether Redocly's linter finds no fault, or is missing; prints what it finds."""
    npx = shutil.which("npx")
    if npx is None:
        print("npx is not installed: the contract was validated, and not linted")
        return True
    command = [
        npx,
        "--yes",
        LINTER,
        "lint",
        "--config=redocly.yaml",
        "--format=stylish",
        CONTRACT.name,
    ]
    linted = subprocess.run(
        command, cwd=CONTRACT.parent, env=os.environ | QUIET, capture_output=True, text=True
    )
    if linted.returncode:
        print(linted.stdout, linted.stderr)
        return False
    print(f"{CONTRACT.name}: no fault found by {LINTER}")
    return True


def has_good_texts() -> bool:
    """Returns whether all texts open as they should; prints those that do not."""
    found = list(problems(yaml.load(CONTRACT.read_text(), yaml.CSafeLoader)))
    for problem in found:
        print(problem)
    return not found


def main() -> int:
    return 0 if is_valid() and has_good_texts() and passes_redocly() else 1


if __name__ == "__main__":
    sys.exit(main())
