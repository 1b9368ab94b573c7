"""The command `tinkex exec`, which runs a program for the official SDK on tinkex."""

from __future__ import annotations

import os

import click

from tinkex.config import LOCAL


@click.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    help=(
        "Run a program that imports `tinker`, with tinkex in its place.\n\n"
        "PROGRAM is a Python script, or a command such as `python -m package.module`. The "
        "processes that it starts use tinkex, too."
    ),
)
@click.option(
    "--base-url",
    help=(
        "Server of the program, unless it names one itself; `local` starts an embedded server, "
        "which ends with the program.  [default: TINKER_BASE_URL, else the hosted service]"
    ),
)
@click.option(
    "--model",
    "models",
    multiple=True,
    help=(
        "With `local`: folder or hub id of a transformers model to serve, or NAME=FOLDER; "
        "repeatable.  [default: tinkex/tiny]"
    ),
)
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
def command(base_url: str | None, models: tuple[str, ...], program: tuple[str, ...]) -> None:
    """Runs a program in place of this process."""
    from tinkex.dropin.command import run
    from tinkex.errors import ConfigError

    environment = dict(os.environ)
    if base_url:
        environment["TINKER_BASE_URL"] = base_url
    is_local = environment.get("TINKER_BASE_URL") == LOCAL
    if models and not is_local:
        raise click.UsageError("--model is for the embedded server: --base-url local")
    try:
        if is_local:
            from tinkex.local.beside import start

            environment["TINKER_BASE_URL"] = url = start(models)
            click.echo(
                f"An embedded server runs at {url}. It ends with the program, and its checkpoints "
                "with it; `tinkex serve` keeps them.",
                err=True,
            )
            environment.setdefault("TINKER_API_KEY", "tml-local")
        run(program, environment)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
