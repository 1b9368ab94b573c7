"""The command `tinkex auth login`."""

from __future__ import annotations

import os
import sys

import click

from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.exit_codes import ExitCode
from tinkex.cli.failures import Failure, current_path
from tinkex.cli.output import Output

_KEYS = "https://tinker.thinkingmachines.ai/keys"


@data_command(
    "login",
    help=(
        "Check an API key and store it for all programs of this user: in the system's keyring if "
        "the package keyring is installed, else in a file that nobody else can read."
    ),
    fields=("key_id", "name", "key", "email", "organization", "stored_in"),
    examples=["tinkex auth login", "tinkex auth login --key-stdin < key.txt"],
    id_field="key_id",
)
@click.option("--key-stdin", is_flag=True, help="Read the key from stdin, and do not ask.")
@connection_options
def command(output: Output, connection: Connection, key_stdin: bool) -> None:
    """Stores an API key."""
    from tinkex import RestClient
    from tinkex.cli.auth.keys import ask, masked_key, store

    connection.api_key = key = _given_key(output, key_stdin, connection)
    rest: RestClient = connection.rest
    facts = ask(rest, key)
    details = {
        "org_details": {"name": facts.organization},
        "user_details": {"email": facts.email},
    }
    known = facts.organization or facts.email
    name = facts.name or "manual"
    place = store(facts.key_id, key, name, facts.note, details if known else None)
    output.record(
        {
            "key_id": facts.key_id,
            "name": name,
            "key": masked_key(key),
            "email": facts.email,
            "organization": facts.organization,
            "stored_in": place,
        }
    )
    output.status("The key is stored, and is the default of all programs.")
    if os.environ.get("TINKER_API_KEY"):
        output.warn("TINKER_API_KEY is set, and takes precedence over the stored key")


def _given_key(output: Output, from_stdin: bool, connection: Connection) -> str:
    if from_stdin:
        key = sys.stdin.readline().strip()
    elif not output.can_ask:
        raise Failure(
            "there is no terminal to ask for the key on",
            code=ExitCode.USAGE,
            hint=f"{current_path()} --key-stdin < FILE",
        )
    else:
        output.status(f"Keys of the hosted service are made at {_KEYS}.")
        key = click.prompt("API key", hide_input=True, err=True).strip()
    if not key:
        raise Failure("the key is empty", code=ExitCode.USAGE, hint=f"{current_path()} --help")
    return key
