"""The command `tinkex`. Each subcommand is a module, which is imported when the command runs.

A command is `command` of the module `tinkex.cli.NAME`; one of a group, of `tinkex.cli.GROUP.NAME`.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from tinkex.cli.exit_codes import ExitCode
from tinkex.cli.invocation import Invocation

Commands = Mapping[str, "str | tuple[str, Commands]"]
"""The commands of a group by name: what each does, and the commands of those that are groups."""

SECTIONS: Mapping[str, Commands] = {
    "Servers": {
        "serve": "Run the embedded server.",
        "bridge": "Let programs of the official SDK use any server.",
        "exec": "Run a program for the official SDK on tinkex.",
    },
    "Train": {
        "data": (
            "Data files.",
            {"check": "Show what a data file would teach, and which lines are wrong."},
        ),
        "train": (
            "Training recipes.",
            {
                "sft": "Fine-tune a model on completions, chats or texts.",
                "rl": "Reinforce the answers that a function of yours rewards.",
                "dpo": "Teach a model to prefer one of two answers.",
                "distill": "Teach a model to write as a teacher would.",
            },
        ),
        "eval": "Evaluate a model on held-out data: loss and score.",
    },
    "Manage": {
        "run": (
            "Training runs.",
            {
                "list": "List training runs, newest first.",
                "info": "Show one training run with its checkpoints.",
                "watch": "Follow the metrics of a training run.",
            },
        ),
        "checkpoint": (
            "Saved weights.",
            {
                "list": "List checkpoints, newest first.",
                "info": "Show one checkpoint: its size, its access and its LoRA shape.",
                "download": "Download a checkpoint to a new folder, whole or not at all.",
                "delete": "Delete checkpoints permanently.",
                "publish": "Make a checkpoint readable for everybody.",
                "unpublish": "Make a checkpoint readable for its owner only.",
                "set-ttl": "Set the time after which a checkpoint is deleted.",
                "push-hf": "Upload a checkpoint to the Hugging Face hub.",
                "copy": "Copy a checkpoint to a project.",
            },
        ),
        "session": (
            "Sessions of programs.",
            {
                "list": "List sessions, newest first.",
                "info": "Show one session with its training runs and samplers.",
                "close": "End a session, such as one whose program was killed.",
                "export-trace": "Fetch a trace of a session, a file for ui.perfetto.dev.",
            },
        ),
        "model": (
            "Base models.",
            {"list": "List the base models that the server trains and samples."},
        ),
        "billing": (
            "Usage and its cost.",
            {
                "usage": "List the usage of each hour, with its estimated cost.",
                "checkpoint-storage": "List the storage that checkpoints use now.",
            },
        ),
    },
    "Start": {
        "sample": "Continue a text, token by token.",
        "init": "Write a script and its data, to begin with.",
        "demo": "Train a small model on this machine, in about a minute.",
    },
    "This program": {
        "doctor": "Say why something does not work, and what to do.",
        "auth": (
            "API keys.",
            {
                "login": "Check an API key and store it for all programs of this user.",
                "logout": "Remove the stored default key from this machine.",
                "status": "Show which API key is used, and whether the server accepts it.",
                "whoami": "Show the user and the organization of the API key.",
            },
        ),
        "config": (
            "Settings.",
            {"show": "List all settings, each with its value and where that comes from."},
        ),
        "completion": (
            "Completion of commands in a shell.",
            {
                "show": "Print the script that completes commands in a shell.",
                "install": "Write that script to the place where the shell looks for it.",
            },
        ),
        "help": "Explain a command or a topic.",
        "version": "Print the versions of this client and of the server.",
    },
}
"""All commands, in the order and under the titles of the help."""


class LazyGroup(click.Group):
    """A group that knows the names of its commands without importing them.

    Its help is therefore fast and needs no optional dependency; a misspelt name gets a suggestion.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Commands], place: str, **settings: Any):
        super().__init__(*args, **settings)
        self.sections, self.place = sections, place
        self.known: Commands = {n: v for part in sections.values() for n, v in part.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.known)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.known.get(cmd_name)
        if entry is None:
            return None
        place = f"{self.place}.{cmd_name.replace('-', '_')}"
        if isinstance(entry, str):
            return importlib.import_module(place).command
        text, commands = entry
        return LazyGroup(cmd_name, sections={"Commands": commands}, place=place, help=text)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.known and not name.startswith("-") and not ctx.resilient_parsing:
            ctx.ensure_object(Invocation).note(ctx.command_path, args)
            ctx.fail(f"there is no command {ctx.command_path} {name}{suggestion(name, self.known)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in self.sections.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(n, v if isinstance(v, str) else v[0]) for n, v in commands.items()]
                )


class _Main(LazyGroup):
    """The command itself, which turns every error into a message and an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        prog_name = prog_name or self.name
        invocation = Invocation(words)
        extra.setdefault("obj", invocation)
        if not standalone_mode:
            return super().main(words, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(words, prog_name, complete_var, standalone_mode=False, **extra)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - all are reported
            from tinkex.cli.failures import end

            code = end(error, invocation)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # The reader of the pipe has enough, as `head` does.
            sys.stdout = None  # pyright: ignore[reportAttributeAccessIssue] - no flush at exit
            ctx.exit(ExitCode.OK)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Returns ". Did you mean …?" for the known names that are like the given one, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f". Did you mean {' or '.join(near)}?" if near else ""


@click.group(
    "tinkex",
    cls=_Main,
    sections=SECTIONS,
    place="tinkex.cli",
    help="Tinkex: the Tinker fine-tuning API, as a client and as a server.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "-f",
    "--format",
    "default_format",
    type=click.Choice(["table", "json"]),
    help="Format of the data of every command.  [default: table on a terminal, else plain]",
)
@click.pass_context
def main(ctx: click.Context, default_format: str | None) -> None:
    """Runs the command `tinkex`."""
    invocation = ctx.ensure_object(Invocation)
    invocation.default_format = default_format  # pyright: ignore[reportAttributeAccessIssue]
    invocation.json |= default_format == "json"
