"""The command `tinkex version`."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from tinkex._version import __version__
from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.output import Output

if TYPE_CHECKING:
    from tinkex import Config
    from tinkex.dialects.dialect import Dialect


@data_command(
    "version",
    help="Print the versions of this client, of Python and of the server, with its wire.",
    fields=("client", "python", "base_url", "server", "wire"),
    examples=["tinkex version", "tinkex version -q"],
    id_field="client",
)
@connection_options
def command(output: Output, connection: Connection) -> None:
    """Prints versions. `-q` asks no server."""
    asked = {"base_url": None, "server": None, "wire": None}
    if output.mode != "quiet":
        asked |= _ask(output, connection)
    output.record({"client": __version__, "python": platform.python_version(), **asked})


def _ask(output: Output, connection: Connection) -> dict[str, Any]:
    """Returns what is known of the server, which may be nothing but its URL."""
    from tinkex.errors import MissingKeyError, TinkexError

    try:
        config = connection.brief_config
    except MissingKeyError:
        output.status("No server was asked: there is no API key for the hosted service.")
        return {}
    try:
        dialect = _dialect(config)
    except TinkexError as error:
        output.status(f"The server did not tell: {error.message}")
        return {"base_url": config.base_url}
    return {"base_url": config.base_url, "server": dialect.name, "wire": dialect.encodings[0]}


def _dialect(config: Config) -> Dialect:
    from tinkex.portal import portal
    from tinkex.session.discovery import discover
    from tinkex.transport.transport import Transport

    async def ask() -> Dialect:
        transport = Transport(config)
        try:
            await discover(transport)
            return transport.server.dialect
        finally:
            await transport.aclose()

    return portal.shared().run(ask)
