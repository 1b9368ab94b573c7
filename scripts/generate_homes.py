"""Makes `tinkex/_homes.py`, by which `tinkex` finds its public names when they are first used, from
the imports that `tinkex/__init__.py` shows to type checkers: `make generate`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_HEAD = '''"""The module of each public name of tinkex. Generated from the imports of
`tinkex/__init__.py` by `make generate`; not to be edited.
"""

from collections.abc import Mapping

HOMES: Mapping[str, str] = {
'''


def render(out: Path) -> None:
    """Writes the module, not formatted."""
    names = dict(sorted(homes(_tree("tinkex"))))
    entries = "".join(f'    "{name}": "{home}",\n' for name, home in names.items())
    out.write_text(f"{_HEAD}{entries}}}\n")


def homes(package: ast.Module) -> Iterator[tuple[str, str]]:
    """Yields each name that the package imports for type checkers, with the module it is in."""
    for node in _for_type_checkers(package):
        if not (isinstance(node, ast.ImportFrom) and node.module and node.level == 0):
            raise SystemExit(f"tinkex/__init__.py, line {node.lineno}: expected `from … import …`")
        for alias in node.names:
            if alias.name == "*":
                yield from _homes_in(node.module)
            else:
                yield alias.name, node.module


def _homes_in(module: str) -> Iterator[tuple[str, str]]:
    """Yields each public name of a module, with the module that it is imported from when it is
    first used; else with this one.
    """
    tree = _tree(module)
    lazy = {
        alias.name: node.module
        for node in _for_type_checkers(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    yield from ((name, lazy.get(name, module)) for name in _public(tree))


def _for_type_checkers(package: ast.Module) -> list[ast.stmt]:
    return [
        statement
        for node in package.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
    ]


def _public(module: ast.Module) -> list[str]:
    """Returns the names that `from module import *` means to type checkers."""
    values = {
        target.id: node.value
        for node in module.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if "__all__" in values:
        return ast.literal_eval(values["__all__"])
    defined = [
        node.name for node in module.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))
    ]
    return [name for name in [*defined, *values] if not name.startswith("_")]


def _tree(module: str) -> ast.Module:
    folder = ROOT.joinpath(*module.split("."))
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    return ast.parse(path.read_text())
