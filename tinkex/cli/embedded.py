"""The embedded server of a command that trains or samples, where the settings name no server."""

from __future__ import annotations

from tinkex.cli.connection import Connection
from tinkex.cli.failures import Failure
from tinkex.cli.output import Output


def choose_server(output: Output, connection: Connection) -> bool:
    """Starts an embedded server in a process beside this one, if one is asked for or none is set.
    Returns whether it did.

    The server keeps its data where `tinkex serve` does, so that what is trained now can be sampled
    and downloaded by later commands.

    Raises:
        Failure: it cannot be started.
    """
    from tinkex.config import LOCAL
    from tinkex.errors import ConfigError, MissingKeyError

    try:
        if connection.config.base_url != LOCAL:
            return False
        chosen = "The embedded server works on this machine"
    except MissingKeyError:
        chosen = "No server is set (TINKER_BASE_URL, TINKER_API_KEY): an embedded one works here"
    from tinkex.cli.process import user_data_folder
    from tinkex.local import beside

    folder = user_data_folder()
    output.status(f"{chosen}, with its data in {folder}.")
    try:
        connection.use(beside.start((), data_dir=folder))
    except ConfigError as error:
        raise Failure(error.message, hint="tinkex doctor --base-url local") from error
    return True
