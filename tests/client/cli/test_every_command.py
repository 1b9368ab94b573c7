"""Every command, present and future: its examples run, it answers and fails in JSON where that is
asked for, and its help leads with examples.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from huggingface_hub import HfApi

from tests.client.cli.conftest import Things
from tests.client.cli.in_process import run
from tinkex.cli import main
from tinkex.cli.command import Command
from tinkex.local import Server

_UNTIL_STOPPED = {("serve",), ("bridge",), ("exec",)}
"""Commands that write no data: they run until they are stopped, or become another program."""
_ELSEWHERE = {
    ("data", "check"): "cli/test_train.py",
    ("demo",): "cli/test_demo.py",
    ("doctor",): "cli/test_doctor.py",
    ("eval",): "cli/test_train.py",
    ("init",): "cli/test_init.py",
    ("run", "watch"): "cli/test_watch.py",
    ("sample",): "cli/test_sample.py",
    ("train", "distill"): "cli/test_train.py",
    ("train", "dpo"): "cli/test_train.py",
    ("train", "rl"): "cli/test_train.py",
    ("train", "sft"): "cli/test_train.py",
}
"""Commands whose examples need more than a server that answers at once, and where their tests are.
"""
_TESTS = Path(__file__).parents[1]


def leaves(
    group: click.Group, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yields every command below a group, with its words."""
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        found = group.get_command(ctx, name)
        assert found is not None, (*words, name)
        if isinstance(found, click.Group):
            yield from leaves(found, (*words, name))
        else:
            yield (*words, name), found


LEAVES = dict(leaves(main))
COMMANDS = {words: found for words, found in LEAVES.items() if isinstance(found, Command)}
NAMES = [" ".join(words) for words in COMMANDS]
CONNECTED = [
    " ".join(words)
    for words, found in COMMANDS.items()
    if words not in _ELSEWHERE and "base_url" in {param.name for param in found.params}
]
EXAMPLES = [
    example
    for words, found in COMMANDS.items()
    if words not in _ELSEWHERE
    for example in found.examples
]


def first_example(name: str, things: Things, folder: Path) -> list[str]:
    """Returns the arguments of a command's first example that can run without a terminal."""
    found = COMMANDS[tuple(name.split())]
    examples = [example for example in found.examples if "<" not in example]
    args = shlex.split(things.filled(examples[0], folder))[1:]
    return [*args, *(["--yes"] if "yes" in _names(found) and "--yes" not in args else [])]


def _names(found: click.Command) -> set[str]:
    return {str(param.name) for param in found.params}


@pytest.fixture
def prepared(things: Things, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Things:
    """A place where every example can run: folders of nobody, a key on stdin, and a hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/bash")
    monkeypatch.setenv("TINKEX_RETRY_BASE_DELAY", "0")
    (tmp_path / "key.txt").write_text("tml-of-a-test\n")

    class Commit:
        commit_url = "https://hub/commit"
        pr_url = "https://hub/pr"

    monkeypatch.setattr(HfApi, "create_repo", lambda *args, **how: None)
    monkeypatch.setattr(HfApi, "upload_folder", lambda *args, **how: Commit())
    return things


def test_all_commands_write_through_the_output_but_those_that_write_no_data() -> None:
    assert {words for words in LEAVES if words not in COMMANDS} == _UNTIL_STOPPED
    assert all((_TESTS / place).exists() for place in _ELSEWHERE.values())


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(example: str, prepared: Things, tmp_path: Path) -> None:
    line, _, file = prepared.filled(example, tmp_path).partition(" < ")
    args = shlex.split(line)[1:]
    needs_key = args[:2] == ["auth", "login"]
    if needs_key and not file:  # It asks for the key, which test_rules.py answers on a terminal.
        assert run(*args).exit_code == 2
        return
    if args[0] == "checkpoint" and args[1] in ("delete",) and "--dry-run" not in args:
        args.append("--yes")
    done = run(*args, given=Path(file).read_text() if file else None)
    assert done.exit_code == 0, done.output
    assert done.stdout or done.stderr  # a list may be empty, and says so


@pytest.mark.parametrize("name", NAMES)
def test_its_answer_is_json(name: str, prepared: Things, tmp_path: Path) -> None:
    words = tuple(name.split())
    if words in _ELSEWHERE:
        pytest.skip(f"tested by {_ELSEWHERE[words]}")
    login = name == "auth login"
    args = ["auth", "login", "--key-stdin"] if login else first_example(name, prepared, tmp_path)
    if name.startswith("billing") and "-" in args:
        args = args[: args.index("--csv")]
    done = run(*args, "--json", given="tml-of-a-test\n" if login else None)
    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout)
    fields = list(COMMANDS[words].fields)
    for row in value if isinstance(value, list) else [value]:
        assert list(row) == fields


@pytest.mark.parametrize("name", NAMES)
def test_its_usage_errors_are_json(name: str) -> None:
    done = run(*name.split(), "--json", "--no-such-option")
    error = json.loads(done.stdout)["error"]
    assert (done.exit_code, error["code"]) == (2, 2)
    assert error["message"] == "No such option '--no-such-option'"
    assert error["hint"] == f"tinkex {name} --help"
    assert error["request_id"] is None


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("train sft --lr 1e-3", "--learning-rate"),
        ("train rl --max-seq-length 9", "--max-length"),
        ("sample --max-new-tokens 9 x", "--max-tokens"),
        ("sample --num-samples 9 x", "-n"),
    ],
)
def test_an_option_of_another_program_is_told_its_name_here(line: str, meant: str) -> None:
    done = run(*line.split())
    assert done.exit_code == 2
    assert done.stderr.splitlines()[0].endswith(f"Did you mean '{meant}'?")


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_field_is_an_error_that_lists_all(name: str) -> None:
    found = COMMANDS[tuple(name.split())]
    done = run(*name.split(), "--json=no_such_field")
    error = json.loads(done.stdout)["error"]
    assert (done.exit_code, error["code"]) == (2, 2)
    assert ", ".join(found.fields) in error["message"]
    assert error["hint"].startswith(f"tinkex {name} --json={found.fields[0]}")


@pytest.mark.parametrize("name", CONNECTED)
def test_without_a_server_its_error_is_json(
    name: str, prepared: Things, nowhere: str, tmp_path: Path
) -> None:
    if name in ("version", "config show"):  # which need no server
        assert run(*name.split(), "--base-url", nowhere, "--json").exit_code == 0
        return
    login = name == "auth login"
    args = ["auth", "login", "--key-stdin"] if login else first_example(name, prepared, tmp_path)
    given = "tml-of-a-test\n" if login else None
    done = run(*args, "--base-url", nowhere, "--json", given=given)
    error = json.loads(done.stdout)["error"]
    assert (done.exit_code, error["code"]) == (5, 5), done.output
    assert nowhere in error["message"]
    assert "`tinkex serve`" in error["message"]
    assert error["hint"] == "tinkex doctor"


@pytest.mark.parametrize("name", NAMES)
def test_its_help_leads_with_examples_of_itself(name: str) -> None:
    found = COMMANDS[tuple(name.split())]
    done = run(*name.split(), "-h")
    assert done.exit_code == 0, done.output
    before, _, after = done.stdout.partition("Examples:\n")
    assert "Options:" not in before
    assert 1 <= len(found.examples) <= 3
    for example in found.examples:
        assert example.startswith(f"tinkex {name}")
        assert f"  {example}\n" in after


def test_a_run_that_is_not_there_is_json_too(fake_server: Server) -> None:
    done = run("run", "info", "no-such-run", f"--base-url={fake_server.base_url}", "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.exit_code, error["code"]) == (3, 3)
    assert error["hint"] == "tinkex run list"
