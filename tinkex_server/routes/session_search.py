"""The route that searches sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinkex_api.models import (
    SessionSearchCursor,
    SessionSearchRequest,
    SessionSearchResponse,
    SessionStatus,
    SessionStatusQuery,
    SessionStatusReason,
    SessionSummary,
    UserMetadata,
)

from tinkex_server.access.ownership import Access
from tinkex_server.errors import malformed
from tinkex_server.routes.support.endpoint import Call, post
from tinkex_server.routes.support.formatting import moment, user_urn
from tinkex_server.routes.support.searching import check_count, cursor_time, may_see, page_length
from tinkex_server.state import CommonState
from tinkex_server.store import FINISH_REASONS, FoundSession, SessionQuery, SessionRow


async def search(state: CommonState, call: Call[SessionSearchRequest]) -> Mapping[str, Any]:
    body = call.body
    limit = page_length(body.limit)
    query = _query(body, call.access)
    found = (
        state.store.sessions.search(query, limit + 1) if may_see(body.owner, call.access) else []
    )
    response = SessionSearchResponse([_summary(session) for session in found[:limit]])
    if len(found) > limit:
        last = found[limit - 1].session
        response.next_cursor = SessionSearchCursor(
            moment(last.created_at).isoformat(), last.session_id
        )
    return response.to_dict()


def _query(body: SessionSearchRequest, access: Access) -> SessionQuery:
    words, metadata = (body.display_name or "").split(), body.user_metadata or dict[str, str]()
    check_count(display_name=words, project_ids=body.project_ids or [], user_metadata=metadata)
    return SessionQuery(
        owner=access.owner,
        session_id=body.session_id or None,
        words=words,
        project_ids=body.project_ids,
        user_metadata=metadata,
        states=None if body.statuses is None else _states(body.statuses),
        after=_after(body.cursor) if body.cursor else None,
    )


def _states(statuses: Sequence[SessionStatusQuery]) -> list[str]:
    if not statuses:
        raise malformed("statuses", message="must not be empty")
    return list(
        {state for index, status in enumerate(statuses) for state in _states_of(status, index)}
    )


def _states_of(status: SessionStatusQuery, index: int) -> Sequence[str]:
    """Returns the states in the store that a status stands for. No session ever has the state
    "failed": only requests fail, and their futures say so.
    """
    if status.type in ("active", "cancelled", "failed"):
        return [status.type]
    if status.type != "client_finished":
        raise malformed(
            "statuses",
            index,
            "type",
            message="must be active, cancelled, failed or client_finished",
        )
    reasons = status.reasons or FINISH_REASONS
    if not set(reasons) <= set(FINISH_REASONS):
        raise malformed(
            "statuses", index, "reasons", message=f"must be of {', '.join(FINISH_REASONS)}"
        )
    return reasons


def _after(cursor: SessionSearchCursor) -> tuple[float, str]:
    return cursor_time(cursor.last_created_at), cursor.last_session_id


def _summary(found: FoundSession) -> SessionSummary:
    row = found.session
    return SessionSummary(
        session_id=row.session_id,
        created_at=moment(row.created_at),
        owner=user_urn(row.owner),
        project_id=row.project_id,
        checkpoints_count=found.checkpoints,
        status=_status(row),
        display_name=row.display_name,
        user_metadata=UserMetadata.from_dict(row.user_metadata),
        checkpoint_storage_bytes=found.size_bytes,
    )


def _status(row: SessionRow) -> SessionStatus:
    if row.finished_at is None:
        return SessionStatus("active")
    if row.finish_reason in FINISH_REASONS:
        return SessionStatus(
            "client_finished", row.finish_detail, SessionStatusReason(row.finish_reason)
        )
    return SessionStatus("cancelled", row.finish_detail)


ROUTES = [post("/sessions/search", SessionSearchRequest, search)]
