"""The command `tinkex session close`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tinkex.cli import complete
from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.output import Output

if TYPE_CHECKING:
    from tinkex.session.lifecycle import Outcome


@data_command(
    "close",
    help=(
        "End a session, such as one whose program was killed. A program that still uses it is "
        "refused from then on."
    ),
    fields=("id", "status"),
    examples=["tinkex session close SESSION --yes"],
)
@click.argument("session_id", metavar="SESSION", shell_complete=complete.sessions)
@click.option(
    "--status",
    type=click.Choice(["success", "errored", "interrupted"]),
    default="interrupted",
    show_default=True,
    help="How it ended.",
)
@click.option("--detail", help="A text about the end.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@connection_options
def command(
    output: Output,
    connection: Connection,
    session_id: str,
    status: Outcome,
    detail: str | None,
    yes: bool,
) -> None:
    """Ends a session."""
    from tinkex.cli.session.lookup import suggesting_sessions

    rest = connection.rest
    with suggesting_sessions(rest, session_id):
        session = rest.get_session(session_id)
    runs = len(session.training_run_ids)
    output.confirm(
        f"End the session {session_id} with its {runs} training run{'' if runs == 1 else 's'}? "
        "What was not saved is lost.",
        yes=yes,
    )
    rest.close_session(session_id, status, detail)
    output.record({"id": session_id, "status": status})
