"""The command `tinkex auth logout`."""

from __future__ import annotations

import os

from tinkex.cli.command import command as data_command
from tinkex.cli.output import Output


@data_command(
    "logout",
    help="Remove the stored default key from this machine. The server still accepts it.",
    fields=("key_id", "name", "stored_in"),
    examples=["tinkex auth logout"],
    id_field="key_id",
)
def command(output: Output) -> None:
    """Removes the stored key."""
    from tinkex.cli.auth.keys import remove_default

    removed = remove_default()
    if removed is None:
        output.record({"key_id": None, "name": None, "stored_in": None})
        output.status("No key is stored.")
    else:
        output.record({"key_id": removed.key_id, "name": removed.name, "stored_in": removed.place})
        output.status("The key is removed.")
    if os.environ.get("TINKER_API_KEY"):
        output.warn("TINKER_API_KEY is still set")
