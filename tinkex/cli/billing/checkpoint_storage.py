"""The command `tinkex billing checkpoint-storage`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.output import Output, Size, size

if TYPE_CHECKING:
    from tinkex.types import CurrentCheckpointStorageUsageItem

_FIELDS = ("project", "user", "email", "checkpoints", "size_bytes", "usd_per_month")


@data_command(
    "checkpoint-storage",
    help="List the storage that checkpoints use now, by project and user.",
    fields=_FIELDS,
    examples=[
        "tinkex billing checkpoint-storage",
        "tinkex billing checkpoint-storage --project-id PROJECT --csv -",
    ],
    id_field="project",
)
@click.option("--project-id", metavar="PROJECT", help="Only that of a project.")
@click.option("--csv", "table", metavar="FILE", help="Write the rows as CSV; - for stdout.")
@connection_options
def command(
    output: Output, connection: Connection, project_id: str | None, table: str | None
) -> None:
    """Lists storage."""
    from tinkex.cli.billing.csv_files import write_csv

    usage = connection.admin.get_current_checkpoint_storage_usage(project_id)
    rows = [_row(item) for item in usage.data]
    if table is not None:
        write_csv(output, table, _FIELDS, rows)
    if table != "-":
        output.table(rows)
    count = sum(row["checkpoints"] for row in rows)
    total = sum(row["size_bytes"] for row in rows)
    output.status(f"{count} checkpoints, {size(total)}.")


def _row(item: CurrentCheckpointStorageUsageItem) -> dict[str, Any]:
    return {
        "project": item.project_id,
        "user": item.user_name or item.org_user_urn,
        "email": item.user_email,
        "checkpoints": item.checkpoint_count,
        "size_bytes": Size(item.size_bytes),
        "usd_per_month": item.estimated_monthly_cost_usd,
    }
