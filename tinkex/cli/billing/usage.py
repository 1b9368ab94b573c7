"""The command `tinkex billing usage`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from tinkex.cli.arguments import Time
from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.output import Output

if TYPE_CHECKING:
    from tinkex.types import BillingUsageEvent, BillingUsageResponse

_FIELDS = (
    "start",
    "end",
    "type",
    "model",
    "tokens",
    "cached",
    "checkpoints",
    "gigabyte_hours",
    "free",
    "cost_usd",
    "usd_per_million_tokens",
    "usd_per_gigabyte_month",
    "user",
    "session",
    "project",
)
_COLUMNS = ("start", "type", "model", "tokens", "cost_usd", "session")
_SESSION_FIELDS = ("session", "user_metadata")


@data_command(
    "usage",
    help="List the usage of each hour, with its estimated cost.",
    fields=_FIELDS,
    examples=[
        "tinkex billing usage 2026-11-01 2026-11-08",
        "tinkex billing usage 2026-11-01 2026-11-08 --csv usage.csv",
    ],
    id_field="session",
)
@click.argument("starting_on", type=Time())
@click.argument("ending_before", type=Time())
@click.option("--csv", "table", metavar="FILE", help="Write the rows as CSV; - for stdout.")
@click.option(
    "--sessions-csv", metavar="FILE", help="Write the sessions of the rows as CSV; - for stdout."
)
@connection_options
def command(
    output: Output,
    connection: Connection,
    starting_on: datetime,
    ending_before: datetime,
    table: str | None,
    sessions_csv: str | None,
) -> None:
    """Lists usage."""
    from tinkex.cli.billing.csv_files import write_csv

    if table == "-" and sessions_csv == "-":
        raise click.UsageError("only one of --csv and --sessions-csv can be -")
    usage = connection.admin.get_billing_usage(starting_on, ending_before)
    rows = [_row(event) for event in usage.data]
    if table is not None:
        write_csv(output, table, _FIELDS, rows)
    if sessions_csv is not None:
        write_csv(output, sessions_csv, _SESSION_FIELDS, _sessions(usage))
    if "-" not in (table, sessions_csv):
        output.table(rows, _COLUMNS)
    total = sum(row["cost_usd"] or 0.0 for row in rows)
    known = (
        f", known up to {usage.cost_data_through:%Y-%m-%d %H:%M}" if usage.cost_data_through else ""
    )
    output.status(f"{len(rows)} rows; estimated cost {total:.2f} USD{known}.")


def _row(event: BillingUsageEvent) -> dict[str, Any]:
    info = event.event_info
    return {
        "start": event.bucket_start,
        "end": event.bucket_end,
        "type": info.type,
        "model": event.base_model,
        "tokens": info.token_count,
        "cached": info.cached,
        "checkpoints": info.count,
        "gigabyte_hours": info.gigabyte_hours,
        "free": info.free,
        "cost_usd": event.estimated_cost_usd,
        "usd_per_million_tokens": event.effective_rate_usd_per_million_tokens,
        "usd_per_gigabyte_month": event.effective_rate_usd_per_gigabyte_month,
        "user": event.user_name or event.user_id,
        "session": event.session_id,
        "project": event.project_id,
    }


def _sessions(usage: BillingUsageResponse) -> list[dict[str, Any]]:
    if usage.sessions is None:
        return []
    return [
        {
            "session": session_id,
            "user_metadata": session.user_metadata.to_dict() if session.user_metadata else {},
        }
        for session_id, session in usage.sessions.items()
    ]
