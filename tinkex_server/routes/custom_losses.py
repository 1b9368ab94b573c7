"""The route that creates custom losses, which clients define as a graph."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tinkex_api.models import (
    CreateCustomLossRequest,
    CreateCustomLossResponse,
    UntypedAPIFuture,
)

from tinkex_server.access.ownership import Access
from tinkex_server.engine.interface import CustomLoss
from tinkex_server.errors import bad_request, malformed
from tinkex_server.jobs.requests import RequestIdentity
from tinkex_server.routes.support.endpoint import Call, post
from tinkex_server.state import ServerState
from tinkex_server.store import CustomLossRow
from tinkex_server.wire.json import encode

_FORMAT = 1


async def create_custom_loss(
    state: ServerState, call: Call[CreateCustomLossRequest]
) -> Mapping[str, Any]:
    """Queues the check of a loss; its result is an id that models of the session can train with."""
    body = call.body
    if body.custom_loss_seq_id < 0:
        raise malformed("custom_loss_seq_id", message="must be 0 or more")
    if body.graph.format != _FORMAT:
        raise bad_request(
            f"the graph has format {body.graph.format}, but this server reads format {_FORMAT}"
        )
    call.access.session(body.session_id)
    scope = f"{body.session_id}:loss"
    identity = call.identify(scope, body.custom_loss_seq_id, "create_custom_loss")
    request_id = state.futures.find_repeated(identity) or _submit(
        state, call.access, body, identity
    )
    return UntypedAPIFuture(request_id).to_dict()


def _submit(
    state: ServerState, access: Access, body: CreateCustomLossRequest, identity: RequestIdentity
) -> str:
    session = access.open_session(body.session_id)
    loss = CustomLoss(
        [(item.name, item.rank) for item in body.inputs],
        [node.to_dict() for node in body.graph.nodes],
    )
    row = CustomLossRow(
        f"{identity.scope}:{body.custom_loss_seq_id}", session.session_id, body.name, loss
    )

    async def work() -> bytes:
        await state.lanes.call(state.engine.check_loss, loss)
        state.store.custom_losses.add(row, time.time())
        return encode(CreateCustomLossResponse(row.loss_id, "create_custom_loss").to_dict())

    return state.futures.submit(identity, work, lane=identity.scope, number=None)


ROUTES = [post("/create_custom_loss", CreateCustomLossRequest, create_custom_loss)]
