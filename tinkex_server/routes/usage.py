"""The routes of usage, in the form in which the hosted service bills it. Costs and
rates are 0 here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from tinkex_api.models import (
    BillingEventInfo,
    BillingUsageEvent,
    BillingUsageResponse,
    BillingUsageSession,
    BillingUsageSessions,
    CurrentCheckpointStorageUsageItem,
    CurrentCheckpointStorageUsageResponse,
    UserMetadata,
)

from tinkex_server.routes.support.endpoint import Call, get
from tinkex_server.routes.support.formatting import moment, user_urn
from tinkex_server.routes.support.query import hours
from tinkex_server.routes.support.storage_hours import HOUR, StoredHour, stored_hours
from tinkex_server.state import CommonState
from tinkex_server.store import StorageRow, UsageRow

_LONGEST = timedelta(days=14)


async def usage_events(state: CommonState, call: Call[None]) -> Mapping[str, Any]:
    """Returns tokens, checkpoints and storage by hour. The current hour counts up to now."""
    first, last = (
        hour.timestamp()
        for hour in hours(call.query, "starting_on", "ending_before", most=_LONGEST)
    )
    used = state.store.usage.between(call.access.owner, first, last)
    spans = state.store.usage.stored(call.access.owner, first, last)
    stored = await asyncio.to_thread(lambda: list(stored_hours(spans, first, last, time.time())))
    by_hour = sorted(
        [*map(_used, used), *map(_stored, stored)], key=lambda event: event.bucket_start
    )
    return BillingUsageResponse(by_hour, _sessions(state, by_hour)).to_dict()


def _used(row: UsageRow) -> BillingUsageEvent:
    what = (
        BillingEventInfo(row.kind, count=row.amount)
        if row.kind == "checkpoint"
        else BillingEventInfo(row.kind, row.amount)
    )
    if row.kind == "sampling_prefill":
        what.cached = False
    event = _event(row.hour, what, row.owner, row.session_id, row.base_model, row.project_id)
    event.effective_rate_usd_per_million_tokens = 0.0
    return event


def _stored(row: StoredHour) -> BillingUsageEvent:
    # `free` is not set: clients before 0.38 refuse fields that they do not know
    what, of = BillingEventInfo("storage", gigabyte_hours=row.gigabyte_hours), row.attribution
    event = _event(row.hour, what, of.owner, of.session_id, of.base_model, of.project_id)
    event.effective_rate_usd_per_gigabyte_month = 0.0
    return event


def _event(
    hour: int,
    what: BillingEventInfo,
    owner: str,
    session_id: str,
    base_model: str,
    project_id: str | None,
) -> BillingUsageEvent:
    return BillingUsageEvent(
        bucket_start=moment(hour),
        bucket_end=moment(hour + HOUR),
        event_info=what,
        base_model=base_model,
        user_id=user_urn(owner),
        session_id=session_id or None,
        project_id=project_id,
        estimated_cost_usd=0.0,
    )


def _sessions(state: CommonState, events: Sequence[BillingUsageEvent]) -> BillingUsageSessions:
    """Returns the sessions that the events name."""
    named = {event.session_id for event in events if event.session_id}
    rows = [row for session_id in sorted(named) if (row := state.store.sessions.get(session_id))]
    sessions = BillingUsageSessions()
    for row in rows:
        sessions[row.session_id] = BillingUsageSession(UserMetadata.from_dict(row.user_metadata))
    return sessions


async def checkpoint_storage(state: CommonState, call: Call[None]) -> Mapping[str, Any]:
    rows = state.store.checkpoints.storage(call.access.owner, call.query.get("project_id"))
    return CurrentCheckpointStorageUsageResponse(
        [_storage_item(row) for row in rows], 0.0
    ).to_dict()


def _storage_item(row: StorageRow) -> CurrentCheckpointStorageUsageItem:
    return CurrentCheckpointStorageUsageItem(
        checkpoint_count=row.count,
        size_bytes=row.size_bytes,
        size_gigabytes=row.size_bytes / 1e9,
        project_id=row.project_id,
        org_user_urn=user_urn(row.owner),
        estimated_monthly_cost_usd=0.0,
    )


ROUTES = [
    get("/billing/usage/events", usage_events),
    get("/billing/usage/checkpoints/current", checkpoint_storage),
]
