"""The command `tinkex auth whoami`."""

from __future__ import annotations

from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.output import Output


@data_command(
    "whoami",
    help="Show the user and the organization of the API key.",
    fields=("user", "organization", "email"),
    examples=["tinkex auth whoami", "tinkex auth whoami -q"],
    id_field="user",
)
@connection_options
def command(output: Output, connection: Connection) -> None:
    """Shows whom the credential names, or else what the server says of the key."""
    from tinkex.cli.auth.keys import ask
    from tinkex.errors import InvalidInputError

    rest = connection.rest
    try:
        who = rest.whoami()
    except InvalidInputError:  # The credential is no token that names its holder.
        facts = ask(rest, "")
        user = facts.email or facts.name
        output.record({"user": user, "organization": facts.organization, "email": facts.email})
    else:
        output.record({"user": who.user_urn, "organization": who.org_urn, "email": who.email})
