"""Builds the documentation site into build/site: `make docs`.

The pages are those of docs/, some files of other folders, and a reference of Python and REST, which
is written here. The build fails on a broken link, and on a public name that no page has.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

import tinkex
from tinkex._homes import HOMES

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BUILD = ROOT / "build"
COPY = BUILD / "docs"
SITE = BUILD / "site"

PAGES_OF_OTHER_FOLDERS = {
    "CONTRIBUTING.md": "contributing/index.md",
    "openapi/README.md": "contributing/contract.md",
    "tests/README.md": "contributing/tests.md",
    "CHANGELOG.md": "contributing/changelog.md",
}

PYTHON_PAGES = {
    "clients": ("Clients", ("sync", "portal", "sampling.many", "sampling.stream", "downloads")),
    "asyncio": (
        "Asyncio clients",
        ("service", "training", "sampling.client", "rest", "futures", "recovery", "checkpoints"),
    ),
    "types": ("Types", ("types", "tokenizer")),
    "data": ("Data and recipes", ("data", "recipes")),
    "progress": ("Progress and plots", ("plot", "display")),
    "losses": ("Losses and regularizers", ("losses", "regularizers")),
    "configuration": ("Configuration", ("config", "dialects", "credentials", "auth")),
    "events": ("Events and telemetry", ("events", "telemetry")),
    "errors": ("Error classes", ("errors",)),
}
"""The title of each page, and the modules of tinkex whose public names it has."""

WHOLE_MODULES = (
    *("auth", "credentials", "data", "events", "plot", "recipes", "regularizers", "telemetry"),
    "telemetry.otel",
)
"""Modules that are public as they are, with the names in them."""

_METHODS = ("get", "post", "put", "patch", "delete")


def main() -> None:
    for folder in (COPY, SITE):
        shutil.rmtree(folder, ignore_errors=True)
    copy_pages()
    write_python_reference()
    (COPY / "reference" / "rest.md").write_text("\n".join(rest_reference()), encoding="utf-8")
    shutil.copy(ROOT / "mkdocs.yml", BUILD)  # beside it are the builder's own files
    zensical = Path(sys.executable).with_name("zensical")
    built = subprocess.run([zensical, "build", "--clean", "--strict"], cwd=BUILD)
    if built.returncode:
        sys.exit(built.returncode)
    write_plain_texts()
    print(f"{sum(1 for _ in SITE.rglob('index.html'))} pages are in {SITE.relative_to(ROOT)}")


def copy_pages() -> None:
    """Copies docs/ and the pages of other folders, with links that lead to the copies."""
    shutil.copytree(DOCS, COPY)
    copy_of = {page: COPY / page.relative_to(DOCS) for page in DOCS.rglob("*.md")}
    copy_of |= {ROOT / source: COPY / page for source, page in PAGES_OF_OTHER_FOLDERS.items()}
    for source, copy in copy_of.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(_relinked(source, copy_of), encoding="utf-8")


def _relinked(source: Path, copy_of: Mapping[Path, Path]) -> str:
    """Returns a page with links that fit its copy. A link to a file of the repository that is no
    page becomes the file's path.
    """

    def link(found: re.Match[str]) -> str:
        label, target, anchor = found.groups()
        file = (source.parent / target).resolve()
        if file in copy_of:
            place = os.path.relpath(copy_of[file], copy_of[source].parent)
            return f"[{label}]({place}{anchor or ''})"
        return f"`{file.relative_to(ROOT)}`" if file.exists() else found[0]

    text = source.read_text(encoding="utf-8")
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)", link, text)


def write_python_reference() -> None:
    """Writes a page for each subject, from which mkdocstrings makes the reference."""
    (COPY / "reference").mkdir()
    unplaced = set(HOMES) - {"__version__"}
    for page, (title, modules) in PYTHON_PAGES.items():
        names = [name for name, home in HOMES.items() if _is_of(home, name, modules)]
        unplaced -= set(names)
        paths = [_path_of(name) for name in names if not inspect.ismodule(getattr(tinkex, name))]
        paths += [f"tinkex.{module}" for module in WHOLE_MODULES if module.split(".")[0] in modules]
        directives = "".join(f"\n::: {path}\n" for path in paths)
        (COPY / "reference" / f"{page}.md").write_text(f"# {title}\n{directives}", encoding="utf-8")
    if unplaced:
        sys.exit(f"scripts/site.py has no page for {', '.join(sorted(unplaced))}")


def _is_of(home: str, name: str, modules: tuple[str, ...]) -> bool:
    path = f"{home}.{name}.".removeprefix("tinkex.").replace("tinkex_api.models", "types")
    return any(path.startswith(f"{module}.") for module in modules)


def _path_of(name: str) -> str:
    """Returns the path of a public name where it is defined, which may be generated code."""
    value = getattr(tinkex, name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return f"{HOMES[name]}.{name}"
    file = Path(inspect.getsourcefile(inspect.unwrap(value)) or "").resolve()
    root = ROOT / "generated" if ROOT / "generated" in file.parents else ROOT
    module = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    return f"{module}.{value.__name__}"


def rest_reference() -> Iterator[str]:
    """Yields the lines of the page on REST: the contract's operations, by subject."""
    contract: dict[str, Any] = yaml.load(
        (ROOT / "openapi" / "tinker.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader
    )
    yield "# REST\n"
    yield f"{contract['info']['description'].strip()}\n"
    yield "The contract itself is `openapi/tinker.yaml`; the embedded server shows it at `/docs`."
    for tag in contract["tags"]:
        yield f"\n## {tag['name']}\n\n{tag['description'].strip()}"
        for path, operations in contract["paths"].items():
            for method, operation in operations.items():
                if method in _METHODS and tag["name"] in operation["tags"]:
                    yield from _operation(method, path, operation)


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n### {operation['operationId']}\n\n`{method.upper()} {path}`\n"
    yield f"{operation['summary'].strip()}\n"
    if "description" in operation:
        yield f"{operation['description'].strip()}\n"
    if schema := _schema_name(operation.get("requestBody", {})):
        yield f"- Request: `{schema}`"
    for status, answer in operation["responses"].items():
        if schema := _schema_name(answer):
            yield f"- {status}: `{schema}`"


def _schema_name(holder: Mapping[str, Any]) -> str | None:
    """Returns the name of the schema of a body in JSON, if it has one."""
    schema = holder.get("content", {}).get("application/json", {}).get("schema", {})
    return schema.get("$ref", "").rpartition("/")[2] or None


def write_plain_texts() -> None:
    """Writes the Markdown of each page beside it, and `llms.txt`, the list of them."""
    lines = ["# tinkex", "", "> The open Python SDK for the Tinker fine-tuning API.", ""]
    for page in sorted(COPY.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        target = SITE / page.relative_to(COPY)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        title = next(line[2:] for line in text.splitlines() if line.startswith("# "))
        lines.append(f"- [{title}]({page.relative_to(COPY)})")
    (SITE / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
