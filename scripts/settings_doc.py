"""Writes the table of docs/settings.md from the declarations of the settings and their docstrings:
`make docs`. With --check, compares.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinkex.config.setting import Group, Setting, declared_in
from tinkex.config.settings import Config

TARGET = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
_TABLE = re.compile(
    r"(<!-- The table .*? -->\n\n).*?(\n<!-- The end of the table\. -->)", re.DOTALL
)


def table() -> str:
    """Returns a row for each setting: name, variable, default and meaning."""
    rows = [
        f"| `{s.name}` | `{s.variable}` | {_default(s)} | {_cell(text)} |\n"
        for s, text in described()
    ]
    return "| setting | variable | default | meaning |\n| --- | --- | --- | --- |\n" + "".join(rows)


def described() -> Iterator[tuple[Setting, str]]:
    """Yields each setting with the description that its class has of it."""
    arguments = _arguments(Config)
    for name, declared in declared_in(Config).items():
        if isinstance(declared, Group):
            attributes = _attributes(declared.kind)
            for setting in declared.settings:
                yield setting, attributes[setting.name.removeprefix(f"{name}.")]
        else:
            yield declared, arguments[name]


def _arguments(kind: type[Any]) -> dict[str, str]:
    """Returns the descriptions in the section "Args" of a class's docstring, by name."""
    docstring = inspect.getdoc(kind)
    assert docstring
    section = docstring.split("\nArgs:\n")[1].split("\n\n")[0]
    entries = re.split(r"^ {4}(\w+): ", section, flags=re.MULTILINE)[1:]
    return dict(zip(entries[::2], entries[1::2], strict=True))


def _attributes(kind: type[Any]) -> dict[str, str]:
    """Returns the docstrings below the fields of a class, by name."""
    [definition] = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        ast.unparse(field.target): inspect.cleandoc(ast.literal_eval(text.value))
        for field, text in zip(definition.body, definition.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def _cell(text: str) -> str:
    """Returns a description as one line that begins with a capital letter and ends with a stop."""
    line = " ".join(text.split()).replace("|", "\\|").rstrip(".")
    return f"{line[0].upper()}{line[1:]}."


def _default(setting: Setting) -> str:
    value = setting.default() if callable(setting.default) else setting.default
    if value in (None, (), {}):
        return ""
    if setting.name.endswith("_bytes"):
        return f"{value >> 30} GiB" if value >= 1 << 30 else f"{value >> 20} MiB"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def main() -> int:
    text = TARGET.read_text(encoding="utf-8")
    written, found = _TABLE.subn(lambda place: place[1] + table() + place[2], text)
    if found != 1:
        sys.exit("docs/settings.md has lost the comments around its table")
    if "--check" in sys.argv:
        if written != text:
            print("The table of docs/settings.md is not what the settings give. Run `make docs`.")
        return int(written != text)
    TARGET.write_text(written, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
