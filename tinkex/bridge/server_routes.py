"""The bridge's routes that describe the server, and those that begin and end sessions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve
from tinkex_api.models import (
    ClientConfigRequest,
    CreateSessionRequest,
    GetServerCapabilitiesResponse,
    SupportedModel,
)

from tinkex.bridge.failures import refusal, refusing
from tinkex.bridge.state import BridgeState
from tinkex.bridge.upstream import Upstream
from tinkex.dialects.dialect import Dialect
from tinkex.errors import TinkexError, UnsupportedByServer
from tinkex_server.routes import server, sessions
from tinkex_server.routes.support.endpoint import Call, get, post
from tinkex_server.store import RunQuery

_WHOLE = 1 << 20
"""The datums of a chunk for a server that trains a batch in parts otherwise than whole."""
_WHOLE_BYTES = 256 << 20
_MOST_RUNS = 1000


async def client_config(state: BridgeState, call: Call[ClientConfigRequest]) -> Mapping[str, Any]:
    """Answers with the flags of the bridge, and those that depend on the servers behind it."""
    dialects = [upstream.dialect for upstream in await _reachable(state)]
    limits = [_chunk(dialect) for dialect in dialects]
    return evolve(
        server.FLAGS,
        # what was lost behind the bridge is told in words alone
        reports_state_loss=False,
        fwdbwd_max_chunk_len=min(datums for datums, _ in limits),
        fwdbwd_max_chunk_bytes_count=min(size for _, size in limits),
        # a custom loss belongs to a session, and the sessions on other servers are others
        custom_loss_server_side=len(state.upstreams.all) == 1 and dialects[0].runs_custom_losses,
    ).to_dict()


async def _reachable(state: BridgeState) -> Sequence[Upstream]:
    """Returns the servers that answer. Raises `Refused` if none does."""
    upstreams = state.upstreams.all
    outcomes = await asyncio.gather(
        *(upstream.discovered() for upstream in upstreams), return_exceptions=True
    )
    reached: list[Upstream] = []
    for upstream, outcome in zip(upstreams, outcomes, strict=True):
        if isinstance(outcome, Dialect):
            reached.append(upstream)
        elif not isinstance(outcome, TinkexError):
            raise outcome
    if not reached:
        assert isinstance(outcomes[0], TinkexError)
        raise refusal(outcomes[0], upstreams[0].url) from outcomes[0]
    return reached


def _chunk(dialect: Dialect) -> tuple[int, int]:
    """Returns the most datums, and the most bytes, of a request."""
    if not dialect.splits_batches:
        return _WHOLE, dialect.max_body_bytes or _WHOLE_BYTES
    limits = dialect.chunk_limits
    if limits.unit != "bytes":  # the model's client splits what is larger
        return limits.max_items, _WHOLE_BYTES
    return limits.max_items, min(limits.max_size, dialect.max_body_bytes or limits.max_size)


async def capabilities(state: BridgeState, call: Call[None]) -> Mapping[str, Any]:
    """Lists the models of the servers that answer, each model as the server has it that is used
    for it.
    """
    lists = await asyncio.gather(*(_models(state, each) for each in await _reachable(state)))
    return GetServerCapabilitiesResponse([model for models in lists for model in models]).to_dict()


async def _models(state: BridgeState, upstream: Upstream) -> Sequence[SupportedModel]:
    async with refusing(upstream.url):
        try:
            told = await upstream.rest.get_server_capabilities()
        except UnsupportedByServer:
            return _used_models(state, upstream)
    routing = state.upstreams.routing
    return [
        model
        for model in told.supported_models
        if model.model_name and routing.target_for(model.model_name).url == upstream.url
    ]


def _used_models(state: BridgeState, upstream: Upstream) -> Sequence[SupportedModel]:
    """Returns the models that were trained through the bridge on a server that does not list its
    own.
    """
    runs = state.store.models.page(RunQuery(None), _MOST_RUNS, 0)
    names = dict.fromkeys(run.base_model for run in runs)
    routing = state.upstreams.routing
    return [
        SupportedModel(name, trainable=True)
        for name in names
        if routing.target_for(name).url == upstream.url
    ]


async def create_session(state: BridgeState, call: Call[CreateSessionRequest]) -> Mapping[str, Any]:
    """Begins a session here, and on the default server, so that a key that the server refuses is
    refused at once. On the other servers it is begun when it is needed.
    """
    answer = await sessions.create_session(state, call)
    session, upstream = state.session(answer["session_id"]), state.upstreams.default
    try:
        await upstream.session(session)
    except TinkexError as error:
        state.store.sessions.finish(session.session_id, "errored", error.message, time.time())
        raise refusal(error, upstream.url) from error
    return answer


ROUTES = [
    post("/client/config", ClientConfigRequest, client_config),
    get("/get_server_capabilities", capabilities),
    post(
        "/create_session",
        CreateSessionRequest,
        create_session,
        defaults={"tags": [], "user_metadata": {}, "sdk_version": ""},
    ),
]
