"""`recipe_command`: the command that trains by one recipe. Its flags are the fields of the recipe's
config.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import click
from attrs import NOTHING, Attribute, fields

from tinkex import Dialect, InvalidInputError
from tinkex.cli.command import Command
from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.embedded import choose_server
from tinkex.cli.exit_codes import ExitCode
from tinkex.cli.output import Output
from tinkex.data import read_rows
from tinkex.recipes import Result, TrainConfig, resume, train
from tinkex.recipes.card import best_of, card, series
from tinkex.recipes.config import read_toml
from tinkex.recipes.run_folder import RunFolder

FIELDS = (
    "recipe",
    "steps",
    "total_steps",
    "interrupted",
    "metric",
    "first",
    "best",
    "best_step",
    "last",
    "sampler_path",
    "state_path",
    "folder",
)
_PROMPT_LENGTH = 60  # characters; a longer prompt is not shown in a command to paste


def recipe_command(config_class: type[TrainConfig], help: str, examples: Sequence[str]) -> Command:
    """Returns the command of a recipe.

    Args:
        config_class: the config of the recipe.
        help: what it does, in a sentence.
        examples: command lines that begin with `tinkex`; a test runs them.
    """

    def run(
        output: Output,
        connection: Connection,
        config_file: Path | None,
        resumed: Path | None,
        **flags: Any,
    ) -> None:
        given = {name: _plain(value) for name, value in flags.items() if value not in (None, ())}
        config = None
        if resumed is None:
            settings = {**(read_toml(config_file) if config_file else {}), **given}
            config = config_class.of(settings, str(config_file or "the command line"))
            connection.about = Path(config.out or config.data).name
        elif config_file is not None:
            raise click.UsageError("--resume takes the settings of the run; give no CONFIG")
        else:
            _check_recipe(resumed, config_class.recipe)
            connection.about = resumed.resolve().name
        server = _server_options(connection)
        choose_server(output, connection, "trains", keeps=True)
        console = None if output.mode == "quiet" else output.err_console
        if config is not None:
            result = train(config, connection.service, console=console)
        else:
            result = resume(resumed or "", connection.service, given, console=console)
        _show(output, result, server, connection.service.server)
        if result.interrupted:
            click.get_current_context().exit(int(ExitCode.INTERRUPTED))

    run = connection_options(run)
    for option in reversed([*_flags(config_class), *_COMMON]):
        run = option(run)
    name = config_class.recipe
    return data_command(name, help=help, fields=FIELDS, examples=examples, id_field="sampler_path")(
        run
    )


_COMMON = (
    click.option(
        "--resume",
        "resumed",
        metavar="FOLDER",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        help="Folder of a run that ended early, to go on with its next batch.",
    ),
    click.argument(
        "config_file",
        metavar="[CONFIG.toml]",
        required=False,
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
    ),
)


def _flags(config_class: type[TrainConfig]) -> list[Callable[[Any], Any]]:
    """Returns a flag for each setting, required ones first."""
    settings = sorted(fields(config_class), key=lambda each: each.default is not NOTHING)
    return [_flag(each) for each in settings]


def _flag(setting: Attribute[Any]) -> Callable[[Any], Any]:
    """Returns the flag of a setting. It has no default of its own, since it takes precedence over
    the file only where it was given.
    """
    name, kind = f"--{setting.name.replace('_', '-')}", str(setting.type).removesuffix(" | None")
    choices: Sequence[str] = setting.metadata["choices"]
    help = setting.metadata["help"]
    if kind not in ("bool", "list[str]") and setting.default not in (None, NOTHING):
        help = f"{help}  [default: {setting.default}]"
    if setting.default is NOTHING:
        help = f"{help}  [required]"
    if kind == "bool":
        return click.option(f"{name}/--no-{name[2:]}", default=None, help=help)
    types: dict[str, Any] = {"int": int, "float": float}
    return click.option(
        name,
        type=click.Choice(choices) if choices else types.get(kind, str),
        multiple=kind == "list[str]",
        help=help,
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _check_recipe(folder: Path, recipe: str) -> None:
    """Raises `InvalidInputError` if the folder has no run, or one of another recipe."""
    of = RunFolder.open(folder).run()["recipe"]
    if of != recipe:
        raise InvalidInputError(
            f"the run in {folder} is one of {of}, not of {recipe}",
            advice=f"`tinkex train {of} --resume {folder}` goes on with it.",
        )


def _server_options(connection: Connection) -> str:
    """Returns the options that lead later commands to the same server."""
    named = connection.base_url
    options = f" --base-url {shlex.quote(named)}" if named else ""
    return options + (f" --profile {shlex.quote(connection.profile)}" if connection.profile else "")


def _show(output: Output, result: Result, server: str, dialect: Dialect) -> None:
    if output.mode == "human":
        encoding = (getattr(output.out, "encoding", None) or "utf-8").lower()
        output.text(card(result, ascii_only="utf" not in encoding))
    else:
        output.record(_row(result))
    for command in _next_commands(result, server, dialect):
        output.hint(command)


def _row(result: Result) -> dict[str, Any]:
    values = series(result.metrics, result.goal.metric)
    best_step, best = best_of(values, result.goal) if values else (None, None)
    return {
        "recipe": result.recipe,
        "steps": result.state.step,
        "total_steps": result.total,
        "interrupted": result.interrupted,
        "metric": result.goal.metric,
        "first": values[0][1] if values else None,
        "best": best,
        "best_step": best_step,
        "last": values[-1][1] if values else None,
        "sampler_path": result.state.sampler_path,
        "state_path": result.state.path,
        "folder": str(result.folder.path),
    }


def _next_commands(result: Result, server: str, dialect: Dialect) -> list[str]:
    """Returns the commands that a person is likely to want next, of those that the server can
    follow.
    """
    folder = shlex.quote(str(result.folder.path))
    if result.interrupted:
        return [f"tinkex train {result.recipe} --resume {folder}{server}"]
    commands = [f"tinkex checkpoint download {result.state.sampler_path}{server}"]
    if not dialect.lacks("sample"):
        path = result.state.sampler_path if dialect.sampling.saved_names else result.state.path
        if dialect.lacks("get_sampler"):  # which tells the base model
            path = f"{path} --base-model {shlex.quote(result.folder.run()['config']['model'])}"
        commands.insert(0, f"tinkex sample -m {path}{server} {_prompt_to_try(result)}")
    return commands


def _prompt_to_try(result: Result) -> str:
    """Returns the options and the text by which `tinkex sample` asks what the data asks first."""
    config = result.folder.run()["config"]
    row = next(read_rows(config["data"])).fields
    chats = [row[name] for name in ("messages", "prompt", "chosen") if name in row]
    if not chats or not isinstance(chats[0], list):
        return _quoted(result.prompt.strip("\n"), "your prompt")
    said: dict[str, Any] = {}  # the first message of each role
    for message in cast("list[dict[str, Any]]", chats[0]):
        said.setdefault(message["role"], message["content"])
    options = "--chat"
    if "system" in said:
        options += f" --system {_quoted(said['system'], 'your system message')}"
    if config.get("chat_template"):
        options += f" --chat-template {shlex.quote(config['chat_template'])}"
    return f"{options} {_quoted(said.get('user'), 'your message')}"


def _quoted(text: Any, otherwise: str) -> str:
    """Returns a text as a word of a shell, or another one for a text that is long or has lines."""
    fits = isinstance(text, str) and text and "\n" not in text and len(text) <= _PROMPT_LENGTH
    return shlex.quote(text if fits else otherwise)
