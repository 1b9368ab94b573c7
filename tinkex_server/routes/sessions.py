"""The routes of sessions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tinkex_api.models import (
    AssignSessionProjectRequest,
    CreateSessionRequest,
    CreateSessionResponse,
    FinishSessionRequest,
    GetSessionResponse,
    ListSessionsResponse,
    SessionHeartbeatRequest,
    SessionHeartbeatResponse,
    UserMetadata,
)

from tinkex_server.errors import Reason, Refused, malformed
from tinkex_server.routes.support.endpoint import Call, get, post, put
from tinkex_server.routes.support.query import accessible, page
from tinkex_server.rules.lifecycle import end_session
from tinkex_server.state import CommonState
from tinkex_server.store import FINISH_REASONS, SessionRow


async def create_session(state: CommonState, call: Call[CreateSessionRequest]) -> Mapping[str, Any]:
    body = call.body
    row = SessionRow(
        session_id=state.ids.new_session(),
        tags=body.tags,
        user_metadata=body.user_metadata,
        sdk_version=body.sdk_version,
        project_id=body.project_id or None,
        display_name=body.display_name or None,
        created_at=time.time(),
        owner=call.access.new_owner,
    )
    state.store.sessions.add(row)
    details = {
        "session_id": row.session_id,
        "project_id": row.project_id,
        "display_name": row.display_name,
    }
    state.store.audit.add(row.owner, "session.created", details, row.created_at)
    return CreateSessionResponse(row.session_id).to_dict()


async def heartbeat(state: CommonState, call: Call[SessionHeartbeatRequest]) -> Mapping[str, Any]:
    row = call.access.session(call.body.session_id)
    if row.finished_at is not None:
        raise Refused(Reason.GONE, row.ending)
    state.store.sessions.note_heartbeat(row.session_id, time.time())
    return SessionHeartbeatResponse(type="session_heartbeat").to_dict()


async def finish(state: CommonState, call: Call[FinishSessionRequest]) -> Mapping[str, Any]:
    """Ends the session; its models are unloaded after the requests whose turn has come."""
    row = call.access.session(call.path["session_id"])
    reason, now = call.body.reason.type, time.time()
    if reason not in FINISH_REASONS:
        raise malformed("reason", "type", message=f"must be one of {', '.join(FINISH_REASONS)}")
    if end_session(state, row.session_id, reason, call.body.detail, now):
        state.store.audit.add(
            row.owner, "session.finished", {"session_id": row.session_id, "reason": reason}, now
        )
        await state.folders.remove_unused(state.store.folders)
    return {}


async def assign_project(
    state: CommonState, call: Call[AssignSessionProjectRequest]
) -> Mapping[str, Any]:
    """Assigns a session to a project, which is only a name here."""
    row, project_id = call.access.session(call.path["session_id"]), call.body.project_id
    state.store.sessions.set_project(row.session_id, project_id)
    details = {"session_id": row.session_id, "project_id": project_id}
    state.store.audit.add(row.owner, "project.assigned", details, time.time())
    return {}


async def list_sessions(state: CommonState, call: Call[None]) -> Mapping[str, Any]:
    """Lists the caller's sessions, whatever the scope: nobody can read those of others."""
    accessible(call.query)
    limit, offset = page(call.query, limit=20)
    return ListSessionsResponse(
        state.store.sessions.ids(call.access.owner, limit, offset)
    ).to_dict()


async def get_session(state: CommonState, call: Call[None]) -> Mapping[str, Any]:
    accessible(call.query)
    row = call.access.session(call.path["session_id"])
    return GetSessionResponse(
        training_run_ids=[
            model.model_id for model in state.store.models.of_session(row.session_id)
        ],
        sampler_ids=state.store.samplers.ids_of(row.session_id),
        user_metadata=UserMetadata.from_dict(row.user_metadata),
        display_name=row.display_name,
    ).to_dict()


ROUTES = [
    post(
        "/create_session",
        CreateSessionRequest,
        create_session,
        defaults={"tags": [], "user_metadata": {}, "sdk_version": ""},
    ),
    post("/session_heartbeat", SessionHeartbeatRequest, heartbeat),
    post("/sessions/{session_id}/finish", FinishSessionRequest, finish),
    put("/sessions/{session_id}/project", AssignSessionProjectRequest, assign_project),
    get("/sessions", list_sessions),
    get("/sessions/{session_id}", get_session),
]
