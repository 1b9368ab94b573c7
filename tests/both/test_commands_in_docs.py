"""The commands in README.md and docs/: the path from a file to a model runs as it stands, and no
page names a command or an option that does not exist.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from tests.client.cli.in_process import run
from tests.support.markdown import commands
from tinkex.cli import main
from tinkex.local import Server

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GENERATED = ROOT / "docs" / "cli.md"
"""Made of the help of the commands, whose examples run in tests/client/cli."""
COMMANDS = [
    pytest.param(command, id=f"{page.stem}: {command[:50]}")
    for page in [README, *sorted((ROOT / "docs").rglob("*.md"))]
    if page != GENERATED
    for command in commands(page)
]


@pytest.mark.parametrize(
    ("page", "heading"),
    [(README, "## From a file to a model"), (ROOT / "docs" / "index.md", "## Without code")],
    ids=["README", "docs"],
)
def test_the_path_from_a_file_to_a_model_is_walked_as_the_page_says(
    page: Path, heading: str, torch_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TINKER_BASE_URL", torch_server.base_url)
    path = [command for command in commands(page, under=heading) if command != "tinkex serve"]
    assert [command.split()[1] for command in path] == [
        "init",
        "data",
        "train",
        "sample",
        "checkpoint",
    ]
    trained = "none yet"
    for command in path:
        done = run(*shlex.split(command.replace("tinker://…", trained))[1:])
        assert done.exit_code == 0, f"{command}: {done.output}"
        if " train " in command:
            [trained] = re.findall(r"^sampler_path\t(.*)$", done.stdout, re.MULTILINE)
        if " sample " in command:
            assert " stop" in done.stdout
    assert list(tmp_path.rglob("adapter_model.safetensors"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_docs_exists_with_its_options(command: str) -> None:
    words = shlex.split(command)[1:]
    found: click.Command = main
    # as it is run: a command keeps the names of its help option from its first context
    context = click.Context(found, **found.context_settings)
    while isinstance(found, click.Group):
        rest = found.make_parser(context).parse_args(words)[1]
        inner = found.get_command(context, rest[0])
        assert inner, f"there is no command {rest[0]!r}"
        found, words = inner, rest[1:]
        context = click.Context(found, context)
    found.make_parser(context).parse_args(words)
