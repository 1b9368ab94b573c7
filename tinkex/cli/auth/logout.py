"""The command `tinkex auth logout`."""

from __future__ import annotations

import os

from tinkex.cli.command import command as data_command
from tinkex.cli.output import Output


@data_command(
    "logout",
    help="Remove the stored default key from this machine. The server still accepts it.",
    fields=("key_id", "name", "file"),
    examples=["tinkex auth logout"],
    id_field="key_id",
)
def command(output: Output) -> None:
    """Removes the stored key."""
    from tinkex import credentials

    stored = credentials.load()
    key_id, file = stored.default, credentials.default_path()
    if key_id is None:
        output.record({"key_id": None, "name": None, "file": str(file)})
        output.status("No key is stored.")
    else:
        credentials.save(stored.without_key(key_id))
        name = stored.keys.get(key_id, {}).get("name")
        output.record({"key_id": key_id, "name": name, "file": str(file)})
        output.status("The key is removed.")
    if os.environ.get("TINKER_API_KEY"):
        output.warn("TINKER_API_KEY is still set")
