"""Writes the exit codes and the commands of docs/cli.md from the code: `make docs`. With --check,
compares.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from tinkex.cli import LazyGroup, main
from tinkex.cli.command import Command
from tinkex.cli.exit_codes import MEANINGS

TARGET = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
_TABLE = re.compile(
    r"(<!-- The table .*? -->\n\n).*?(\n<!-- The end of the table\. -->)", re.DOTALL
)
_COMMANDS = re.compile(
    r"(<!-- The commands .*? -->\n\n).*?(\n<!-- The end of the commands\. -->)", re.DOTALL
)
_SHARED = {"base_url", "profile"}, {"limit", "everything", "no_truncate"}
"""Options that the text above the commands describes, in groups that a command has as a whole: the
`--limit` of `eval` and the `--profile` of `serve` are others.
"""


def exit_codes() -> str:
    """Returns a row for each exit code."""
    rows = "".join(f"| {code} | {meaning} |\n" for code, meaning in MEANINGS.items())
    return f"| code | meaning |\n| --- | --- |\n{rows}"


def commands() -> str:
    """Returns a section for each command."""
    return "\n".join(_section(name, found) for name, found in _leaves(main, "tinkex"))


def _leaves(group: click.Group, before: str) -> Iterator[tuple[str, click.Command]]:
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        found = group.get_command(ctx, name)
        assert found is not None, name
        if isinstance(found, LazyGroup):
            yield from _leaves(found, f"{before} {name}")
        else:
            yield f"{before} {name}", found


def _section(name: str, found: click.Command) -> str:
    arguments = _arguments(found)
    title = f"### `{' '.join([name, *arguments])}`\n\n{' '.join(str(found.help).split())}\n"
    examples = found.examples if isinstance(found, Command) else ()
    block = "".join(f"\n    {example}" for example in examples)
    parts = [title, f"{block[1:]}\n" if block else "", _options(found), _fields(found)]
    return "\n".join(part for part in parts if part)


def _arguments(found: click.Command) -> list[str]:
    ctx = click.Context(found)
    return [param.make_metavar(ctx) for param in found.params if isinstance(param, click.Argument)]


def _options(found: click.Command) -> str:
    """Returns the command's own options as a list, with what each means."""
    outputs = found.output_params if isinstance(found, Command) else []
    names = {param.name for param in found.params}
    shared = {name for group in _SHARED if group <= names for name in group}
    ctx = click.Context(found)
    records = [
        record
        for param in found.params
        if isinstance(param, click.Option) and param not in outputs and param.name not in shared
        if (record := param.get_help_record(ctx)) is not None
    ]
    return "".join(f"- `{name}`: {_as_text(text)}\n" for name, text in records)


def _as_text(words: str) -> str:
    """Returns words of the help as Markdown, where a range such as [x>=1] would be a reference."""
    return " ".join(words.split()).replace("[x", "\\[x")


def _fields(found: click.Command) -> str:
    if not isinstance(found, Command):
        return ""
    return f"Fields: {', '.join(f'`{field}`' for field in found.fields)}.\n"


def render(text: str) -> str:
    """Returns the page with its generated parts written anew."""
    for pattern, make in ((_TABLE, exit_codes), (_COMMANDS, commands)):
        made = make()
        text, found = pattern.subn(lambda place, made=made: place[1] + made + place[2], text)
        if found != 1:
            sys.exit("docs/cli.md has lost the comments around its generated parts")
    return text


def write() -> int:
    """Writes the page, or compares it. Returns the exit status."""
    text = TARGET.read_text(encoding="utf-8")
    written = render(text)
    if "--check" in sys.argv:
        if written != text:
            print("docs/cli.md is not what the commands give. Run `make docs`.")
        return int(written != text)
    TARGET.write_text(written, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(write())
