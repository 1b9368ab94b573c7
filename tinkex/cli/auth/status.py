"""The command `tinkex auth status`."""

from __future__ import annotations

from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.output import Output


@data_command(
    "status",
    help="Show which API key is used, where it comes from, and whether the server accepts it.",
    fields=("server", "key", "source", "accepted", "key_id", "name", "email", "organization"),
    examples=["tinkex auth status", "tinkex auth status --json=source,accepted"],
    id_field="key_id",
)
@connection_options
def command(output: Output, connection: Connection) -> None:
    """Shows the key in use. Raises what the server refuses it with."""
    from tinkex.cli.auth.keys import KeyFacts, ask, masked_key

    config = connection.config
    key = config.api_key if isinstance(config.api_key, str) else None
    source = next(s.source for s in config.describe() if s.name == "api_key")
    if config.credential_cmd and not key:
        source = next(s.source for s in config.describe() if s.name == "credential_cmd")
    facts: KeyFacts = ask(connection.rest, key or "")
    output.record(
        {
            "server": config.base_url,
            "key": masked_key(key) if key else None,
            "source": source if key or config.credential_cmd else None,
            "accepted": True,
            "key_id": facts.key_id if key or config.credential_cmd else None,
            "name": facts.name,
            "email": facts.email,
            "organization": facts.organization,
        }
    )
    if not (key or config.credential_cmd):
        output.status("This server needs no key.")
