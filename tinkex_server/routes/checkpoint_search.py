"""The route that searches checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinkex_api.models import (
    CheckpointSearchCursor,
    CheckpointSearchRequest,
    CheckpointSearchResponse,
)

from tinkex_server.access.ownership import Access
from tinkex_server.checkpoint_path import CHECKPOINT_TYPES
from tinkex_server.errors import malformed
from tinkex_server.routes.support.checkpoints import describe_checkpoint
from tinkex_server.routes.support.endpoint import Call, post
from tinkex_server.routes.support.formatting import moment
from tinkex_server.routes.support.searching import check_count, cursor_time, may_see, page_length
from tinkex_server.state import CommonState
from tinkex_server.store import CheckpointQuery, CheckpointRow

_KINDS = {type_: kind for kind, type_ in CHECKPOINT_TYPES.items()}


async def search(state: CommonState, call: Call[CheckpointSearchRequest]) -> Mapping[str, Any]:
    body = call.body
    limit = page_length(body.limit)
    query = _query(body, call.access)
    seen = may_see(body.owner, call.access)
    found = state.store.checkpoints.search(query, limit + 1) if seen else []
    response = CheckpointSearchResponse([describe_checkpoint(row) for row in found[:limit]])
    if len(found) > limit:
        response.next_cursor = _cursor(found[limit - 1])
    return response.to_dict()


def _query(body: CheckpointSearchRequest, access: Access) -> CheckpointQuery:
    metadata = body.user_metadata or dict[str, str]()
    check_count(
        project_ids=body.project_ids or [],
        base_models=body.base_models or [],
        user_metadata=metadata,
    )
    if body.checkpoint_type is not None and body.checkpoint_type not in _KINDS:
        raise malformed("checkpoint_type", message=f"must be one of {', '.join(_KINDS)}")
    cursor = body.cursor
    return CheckpointQuery(
        owner=access.owner,
        kind=None if body.checkpoint_type is None else _KINDS[body.checkpoint_type],
        project_ids=body.project_ids,
        base_models=body.base_models,
        user_metadata=metadata,
        after=cursor and (cursor_time(cursor.last_created_at), cursor.last_checkpoint_uuid),
    )


def _cursor(last: CheckpointRow) -> CheckpointSearchCursor:
    """Returns the end of a page. The folder of a checkpoint is unique, and serves as its id."""
    return CheckpointSearchCursor(moment(last.created_at).isoformat(), last.folder)


ROUTES = [post("/checkpoints/search", CheckpointSearchRequest, search)]
