"""The embedded server of a command that trains or samples, where the settings name no server."""

from __future__ import annotations

from tinkex.cli.connection import Connection
from tinkex.cli.exit_codes import ExitCode
from tinkex.cli.failures import Failure, again_with
from tinkex.cli.output import Output

_SERVE = "http://127.0.0.1:8765"
"""The address at which `tinkex serve` listens, unless it was told another."""


def choose_server(output: Output, connection: Connection, what: str, *, keeps: bool) -> None:
    """Starts an embedded server in a process beside this one, if one is asked for or none is set.

    Args:
        output: where a line says so.
        connection: the connection of the command, which then leads to that server.
        what: what the server does, such as "samples".
        keeps: whether its data is where `tinkex serve` keeps it, for commands that read or write
            saved weights. Otherwise it has none, and ends without a trace.

    Raises:
        Failure: it cannot be started.
    """
    from tinkex.config import LOCAL
    from tinkex.errors import ConfigError, MissingKeyError

    choice = ""
    try:
        if connection.config.base_url != LOCAL:
            return
        first = f"An embedded server {what} on this machine"
    except MissingKeyError:
        first = f"No server is set, so an embedded one {what} on this machine"
        choice = " TINKER_BASE_URL or TINKER_API_KEY choose another."
    _require_local()
    from tinkex.cli.process import user_data_folder
    from tinkex.local import beside

    folder = user_data_folder() if keeps else None
    place = f", with its data in {folder}" if folder else ""
    output.status(f"{first}{place}; its model takes seconds to load.{choice}")
    try:
        connection.use(beside.start((), data_dir=folder))
    except ConfigError as error:
        hint = "tinkex doctor --base-url local"
        if "in use by another server" in error.message:
            hint = again_with(f"--base-url={_SERVE}")
        raise Failure(error.message, code=ExitCode.FAILED, hint=hint) from error


def _require_local() -> None:
    """Raises `Failure` if the embedded server cannot run in this environment."""
    from tinkex.doctor.machine import absent

    if missing := absent("local"):
        raise Failure(
            f"the embedded server needs {', '.join(missing)}, which this environment lacks; or "
            "choose a server with TINKER_BASE_URL or --base-url",
            hint="pip install torch 'tinkex[local]'",
        )
