"""The command `tinkex model list`."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from tinkex.cli import complete
from tinkex.cli.command import command as data_command
from tinkex.cli.command import listing_options
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.output import Output

if TYPE_CHECKING:
    from tinkex.types import SupportedModel

_FIELDS = ("id", "max_context_length", "trainable", "sampleable")


@data_command(
    "list",
    help="List the base models that the server trains and samples.",
    fields=_FIELDS,
    examples=["tinkex model list", "tinkex model list tiny --json=id"],
)
@click.argument("substring", required=False, shell_complete=complete.models)
@listing_options
@connection_options
def command(
    output: Output, connection: Connection, substring: str | None, limit: int | None
) -> None:
    """Lists base models, or those whose names contain a text in upper or lower case."""
    from tinkex.cli.suggestions import not_found

    rows = [_row(model) for model in connection.rest.get_server_capabilities().supported_models]
    names = [row["id"] for row in rows if row["id"]]
    if substring:
        rows = [row for row in rows if substring.lower() in (row["id"] or "").lower()]
        if not rows and names:
            raise not_found("model", substring, names, "tinkex model list")
    written = output.table(islice(rows, limit))
    output.listed(written, limit, "models")


def _row(model: SupportedModel) -> dict[str, Any]:
    return {
        "id": model.model_name,
        "max_context_length": model.max_context_length,
        "trainable": model.trainable,
        "sampleable": model.sampleable,
    }
