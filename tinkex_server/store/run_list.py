"""The training runs as the status page lists them: searched, filtered, sorted, page by page."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

import orjson

from tinkex_server.store import models
from tinkex_server.store.conditions import Condition, all_of, among
from tinkex_server.store.database import Database
from tinkex_server.store.rows import (
    RUN_GROUPS,
    ListedRun,
    RunOrder,
    RunSearch,
    SessionRow,
)

_ENDED = "FROM steps WHERE steps.model_id = models.model_id AND ended"
_NEWEST = "ORDER BY number DESC LIMIT 1"
_SEEN = "max(heartbeat_at, last_request_at)"
_STATUS = f"""CASE
    WHEN state IN ('failed', 'lost', 'creating') THEN state
    WHEN state = 'ready' AND finished_at IS NULL AND {_SEEN} < ? THEN 'gone'
    WHEN state = 'ready' THEN 'ready'
    WHEN finish_reason = 'success' THEN 'finished'
    WHEN finish_reason IN ('errored', 'interrupted') THEN finish_reason
    WHEN finish_reason IS NOT NULL THEN 'gone'
    ELSE 'unloaded' END"""
_TEXT = (
    "folded(model_id || ' ' || coalesce(display_name, '') || ' ' || base_model || ' ' || tags"
    " || ' ' || models.user_metadata || ' ' || sessions.user_metadata)"
)
# columns of both tables by names of their own
_RUNS = f"""SELECT models.*, models.rowid AS created_as, owner, tags, sdk_version, project_id,
    display_name, sessions.user_metadata AS session_metadata,
    sessions.created_at AS session_created_at, heartbeat_at, finished_at, finish_reason,
    finish_detail, {_SEEN} AS seen_at, {_STATUS} AS status,
    coalesce((SELECT number {_ENDED} {_NEWEST}), 0) AS steps,
    (SELECT loss / tokens {_ENDED} AND tokens > 0 {_NEWEST}) AS loss,
    EXISTS (SELECT 1 {_ENDED} AND tokens > 0) AS has_loss
    FROM models JOIN sessions USING (session_id)"""
_ORDERS: Mapping[RunOrder, tuple[str, bool]] = {
    "created": ("created_as", True),
    "active": ("last_request_at", True),
    "name": ("folded(coalesce(display_name, model_id))", False),
    "steps": ("steps", True),
    "loss": ("loss", False),
}
"""The expression of each order, and whether the largest value comes first."""


class RunList:
    """Searches over the tables of training runs, sessions and steps."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def page(self, search: RunSearch, limit: int, offset: int) -> list[ListedRun]:
        """Returns a page of the runs that a search finds."""
        found, values = _found(search)
        expression, falls = _ORDERS[search.order]
        direction = "DESC" if falls != search.reverse else "ASC"
        group, statuses = _in_group(search)
        sql = (
            f"SELECT * FROM ({_RUNS} WHERE {found}) WHERE {group}"
            f" ORDER BY {expression} {direction} NULLS LAST, created_as DESC LIMIT ? OFFSET ?"
        )
        return self._db.all(_row, sql, search.silent_before, *values, *statuses, limit, offset)

    def counts(self, search: RunSearch) -> Mapping[str, int]:
        """Returns the number of runs in each of `RUN_GROUPS` that fulfil the other conditions."""
        found, values = _found(search)
        sql = (
            f"SELECT {_STATUS} AS status, count(*) FROM models JOIN sessions USING (session_id)"
            f" WHERE {found} GROUP BY status"
        )
        by_status: dict[str, int] = dict(self._db.all(tuple, sql, search.silent_before, *values))
        return {
            group: sum(by_status.get(status, 0) for status in statuses)
            for group, statuses in RUN_GROUPS.items()
        }

    def get(self, model_id: str, silent_before: float) -> ListedRun | None:
        """Returns a run by its id."""
        return self._db.one(_row, f"{_RUNS} WHERE model_id = ?", silent_before, model_id)


def _found(search: RunSearch) -> Condition:
    """Returns the conditions of a search but that on the group."""
    parts: list[Condition] = [(f"instr({_TEXT}, ?)", [word.casefold()]) for word in search.words]
    if search.owner is not None:
        parts.append(("owner = ?", [search.owner]))
    return all_of(parts)


def _in_group(search: RunSearch) -> Condition:
    return all_of([among("status", RUN_GROUPS[search.group])] if search.group else [])


def _row(row: sqlite3.Row) -> ListedRun:
    return ListedRun(
        models.read_row(row),
        SessionRow(
            row["session_id"],
            orjson.loads(row["tags"]),
            orjson.loads(row["session_metadata"]),
            row["sdk_version"],
            row["project_id"],
            row["display_name"],
            row["session_created_at"],
            row["owner"],
            row["finished_at"],
            row["finish_reason"],
            row["finish_detail"],
            row["heartbeat_at"],
        ),
        row["status"],
        row["seen_at"],
        row["steps"],
        row["loss"],
        bool(row["has_loss"]),
    )
