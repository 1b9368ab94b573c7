"""The command `tinkex session info`."""

from __future__ import annotations

import click

from tinkex.cli import complete
from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.output import Output


@data_command(
    "info",
    help="Show one session with its training runs and samplers.",
    fields=("id", "name", "user_metadata", "training_runs", "samplers"),
    examples=["tinkex session info SESSION", "tinkex session info SESSION --json=training_runs"],
)
@click.argument("session_id", metavar="SESSION", shell_complete=complete.sessions)
@connection_options
def command(output: Output, connection: Connection, session_id: str) -> None:
    """Shows a session."""
    from tinkex.cli.session.lookup import suggesting_sessions

    with suggesting_sessions(connection.rest, session_id):
        session = connection.rest.get_session(session_id)
    metadata = session.user_metadata.to_dict() if session.user_metadata else {}
    output.record(
        {
            "id": session_id,
            "name": session.display_name or metadata.get("name"),
            "user_metadata": metadata,
            "training_runs": session.training_run_ids,
            "samplers": session.sampler_ids,
        }
    )
