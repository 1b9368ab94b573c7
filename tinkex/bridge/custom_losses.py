"""The bridge's route of custom losses, whose graphs are sent on to the server of the session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinkex_api.api.training import create_custom_loss as create_upstream
from tinkex_api.models import (
    CreateCustomLossRequest,
    CreateCustomLossResponse,
    UntypedAPIFuture,
)

from tinkex.bridge.failures import or_failure
from tinkex.bridge.state import BridgeState
from tinkex.futures.poller import send_and_wait
from tinkex.session.session import Session
from tinkex.transport.answers import required_text
from tinkex_server.errors import malformed
from tinkex_server.jobs.requests import RequestIdentity
from tinkex_server.routes.support.endpoint import Call, post
from tinkex_server.wire.json import encode


async def create_custom_loss(
    state: BridgeState, call: Call[CreateCustomLossRequest]
) -> Mapping[str, Any]:
    """Queues the creation of a loss on the default server; its id there is the result."""
    body = call.body
    if body.custom_loss_seq_id < 0:
        raise malformed("custom_loss_seq_id", message="must be 0 or more")
    call.access.session(body.session_id)
    scope = f"{body.session_id}:loss"
    identity = call.identify(scope, body.custom_loss_seq_id, "create_custom_loss")
    request_id = state.futures.find_repeated(identity) or _submit(state, body, identity)
    return UntypedAPIFuture(request_id).to_dict()


def _submit(state: BridgeState, body: CreateCustomLossRequest, identity: RequestIdentity) -> str:
    upstream, owner = state.upstreams.default, state.session(body.session_id)

    async def create(session: Session) -> str:
        there = CreateCustomLossRequest(
            session.session_id, body.custom_loss_seq_id, body.name, body.inputs, body.graph
        )
        return await send_and_wait(
            session.transport,
            create_upstream.request(body=there),
            lambda fields: required_text(fields, "loss_id"),
        )

    async def work() -> bytes:
        loss_id = await or_failure(upstream.url, lambda: upstream.in_session(owner, create))
        return encode(CreateCustomLossResponse(loss_id, "create_custom_loss").to_dict())

    return state.futures.submit(identity, work, lane=identity.scope, number=None)


ROUTES = [post("/create_custom_loss", CreateCustomLossRequest, create_custom_loss)]
