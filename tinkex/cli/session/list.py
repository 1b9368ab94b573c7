"""The command `tinkex session list`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from tinkex.cli.command import command as data_command
from tinkex.cli.command import listing_options
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.output import Output
from tinkex.cli.session.rows import COLUMNS, FIELDS, row_of, row_of_id

if TYPE_CHECKING:
    from tinkex import RestClient


@data_command(
    "list",
    help="List sessions, newest first.",
    fields=FIELDS,
    examples=["tinkex session list", "tinkex session list --all --json=id,status"],
)
@listing_options
@connection_options
def command(output: Output, connection: Connection, limit: int | None) -> None:
    """Lists the sessions of the user."""
    written = output.table(islice(_rows(connection.rest, output), limit), COLUMNS)
    output.listed(written, limit, "sessions")


def _rows(rest: RestClient, output: Output) -> Iterator[dict[str, Any]]:
    """Yields a row for each session; of the ids alone where the server has no search."""
    from tinkex.errors import UnsupportedByServer
    from tinkex.types import SearchOwner, SessionSearchRequest

    request = SessionSearchRequest(owner=SearchOwner("own"))
    try:
        yield from map(row_of, rest.iter_search_sessions(request))
    except UnsupportedByServer:
        output.status("This server lists the ids of sessions only.")
        yield from map(row_of_id, rest.iter_sessions())
