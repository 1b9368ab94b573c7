"""The command `tinkex session export-trace`."""

from __future__ import annotations

from pathlib import Path

import click

from tinkex.cli import complete
from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.output import Output, Size


@data_command(
    "export-trace",
    help="Fetch a trace of a session, a file for ui.perfetto.dev.",
    fields=("id", "url", "file", "size_bytes"),
    examples=[
        "tinkex session export-trace SESSION -o trace.pftrace",
        "tinkex session export-trace SESSION --url-only",
    ],
    id_field="url",
)
@click.argument("session_id", metavar="SESSION", shell_complete=complete.sessions)
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.  [default: ./SESSION.pftrace]",
)
@click.option("--url-only", is_flag=True, help="Write the URL of the trace, and no file.")
@connection_options
def command(
    output: Output, connection: Connection, session_id: str, target: Path | None, url_only: bool
) -> None:
    """Fetches the trace of a session."""
    from tinkex.cli.fetch import fetch
    from tinkex.cli.session.lookup import suggesting_sessions

    with suggesting_sessions(connection.rest, session_id):
        url = str(connection.rest.export_session_trace(session_id))
    row = {"id": session_id, "url": url, "file": None, "size_bytes": None}
    if not url_only:
        file = target or Path(f"{session_id.replace('/', '_')}.pftrace")
        row |= {"file": str(file), "size_bytes": Size(fetch(url, file))}
        output.status(f"Open {file} at https://ui.perfetto.dev.")
    output.record(row)
