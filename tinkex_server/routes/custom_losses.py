"""Losses that clients send, to train by: taken on once they are checked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tinkex_api.models import (
    CreateCustomLossRequest,
    CreateCustomLossResponse,
    ForwardBackwardInput,
    UntypedAPIFuture,
)

from tinkex_server.access.ownership import Access
from tinkex_server.engine.interface import CustomLoss
from tinkex_server.errors import Location, bad_request, malformed
from tinkex_server.jobs.futures import Ticket
from tinkex_server.routes.endpoint import Call, post
from tinkex_server.state import ServerState
from tinkex_server.store import CustomLossRow, ModelRow
from tinkex_server.wire.json import encode

_FORMAT = 1


async def create_custom_loss(
    state: ServerState, call: Call[CreateCustomLossRequest]
) -> Mapping[str, Any]:
    """Checks the loss, and gives it a name that models of this session can use."""
    body = call.body
    if body.custom_loss_seq_id < 0:
        raise malformed("custom_loss_seq_id", message="must be 0 or more")
    if body.graph.format != _FORMAT:
        raise bad_request(
            f"the graph is of format {body.graph.format}, and this server reads format {_FORMAT}"
        )
    call.access.session(body.session_id)
    scope = f"{body.session_id}:loss"
    ticket = Ticket(
        scope,
        body.custom_loss_seq_id,
        "create_custom_loss",
        call.fingerprint,
        call.access.new_owner,
    )
    request_id = state.futures.repeated(ticket) or _submit(state, call.access, body, ticket)
    return UntypedAPIFuture(request_id).to_dict()


def _submit(
    state: ServerState, access: Access, body: CreateCustomLossRequest, ticket: Ticket
) -> str:
    session = access.open_session(body.session_id)
    loss = CustomLoss(
        [(item.name, item.rank) for item in body.inputs],
        [node.to_dict() for node in body.graph.nodes],
    )
    row = CustomLossRow(
        f"{ticket.scope}:{body.custom_loss_seq_id}", session.session_id, body.name, loss
    )

    async def work() -> bytes:
        await state.lanes.call(state.engine.check_loss, loss)
        state.store.custom_losses.add(row, time.time())
        return encode(CreateCustomLossResponse(row.loss_id, "create_custom_loss").to_dict())

    return state.futures.submit(ticket, work, lane=ticket.scope, number=None)


def custom_loss(
    state: ServerState, model: ModelRow, batch: ForwardBackwardInput, at: Location
) -> CustomLoss:
    """The loss that the batch's config names. Raises `Refused` for one that this model's session
    does not have.
    """
    config: Mapping[str, Any] = batch.loss_fn_config or {}
    loss_id = config.get("loss_id")
    if set(config) != {"loss_id"} or not isinstance(loss_id, str):
        raise malformed(
            *at, "loss_fn_config", message="must hold loss_id, a string, and nothing else"
        )
    row = state.store.custom_losses.get(loss_id)
    if row is None or row.session_id != model.session_id:
        raise bad_request(
            f"session {model.session_id!r} has no custom loss {loss_id!r}; send it by "
            "create_custom_loss"
        )
    return row.loss


ROUTES = [post("/create_custom_loss", CreateCustomLossRequest, create_custom_loss)]
