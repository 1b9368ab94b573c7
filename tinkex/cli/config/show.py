"""The command `tinkex config show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.output import Output

if TYPE_CHECKING:
    from tinkex.config.description import Described


@data_command(
    "show",
    help="List all settings, each with its value and where that comes from. Secrets are hidden.",
    fields=("name", "value", "source"),
    examples=["tinkex config show", "tinkex config show --json=name,source"],
    id_field="name",
)
@connection_options
def command(output: Output, connection: Connection) -> None:
    """Lists the settings. They are shown also where the hosted service would lack a key."""
    from attrs import evolve

    from tinkex.errors import MissingKeyError

    try:
        rows = [_row(setting) for setting in connection.config.describe()]
    except MissingKeyError as error:
        settings = connection.config_without_key.describe()
        rows = [
            _row(evolve(s, value="-", source="missing") if s.name == "api_key" else s)
            for s in settings
        ]
        output.warn(error.message)
    output.table(rows)


def _row(setting: Described) -> dict[str, Any]:
    value = None if setting.value == "-" else setting.value
    return {"name": setting.name, "value": value, "source": setting.source}
