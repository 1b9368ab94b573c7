"""The route of the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tinkex_api.models import AuditEventDetails, AuditLogEntry, AuditLogResponse

from tinkex_server.routes.support.endpoint import Call, get
from tinkex_server.routes.support.formatting import moment
from tinkex_server.routes.support.query import day, one_of
from tinkex_server.state import CommonState

_SUBJECTS = {
    "all": None,
    "checkpoints": "checkpoint",
    "projects": "project",
    "teams": "team",
    "organizations": "organization",
}
"""The subjects of events by event_type. This server has neither teams nor organizations, and so no
events of them.
"""


async def audit_log(state: CommonState, call: Call[None]) -> Mapping[str, Any]:
    """Returns the events of one day, by default today in UTC."""
    subject = _SUBJECTS[one_of(call.query, "event_type", tuple(_SUBJECTS))]
    start, end = day(call.query, "day", datetime.now(UTC).date())
    rows = state.store.audit.between(call.access.owner, subject, start.timestamp(), end.timestamp())
    return AuditLogResponse(
        [
            AuditLogEntry(moment(row.at), row.event, AuditEventDetails.from_dict(row.details))
            for row in rows
        ]
    ).to_dict()


ROUTES = [get("/audit", audit_log)]
