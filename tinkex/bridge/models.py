"""The bridge's routes of models: creation, description, unloading, custom losses, tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinkex_api.api.models import get_tokenizer
from tinkex_api.models import (
    CreateModelRequest,
    CreateModelResponse,
    GetInfoRequest,
    GetInfoResponse,
    ModelData,
    UnloadModelRequest,
)

from tinkex.bridge.failures import or_failure, refusing
from tinkex.bridge.state import BridgeState
from tinkex.errors import NotFoundError, UnsupportedByServer
from tinkex.session.session import Session
from tinkex.training.client import AsyncTrainingClient
from tinkex.training.creation import new_model
from tinkex_server.access.ownership import Access
from tinkex_server.jobs.requests import RequestIdentity
from tinkex_server.routes.models import unload_model
from tinkex_server.routes.support.endpoint import Call, get, post
from tinkex_server.rules.model_creation import NewModel, new_model_row, submit_creation
from tinkex_server.wire.optimizers import optimizer_config, optimizer_kind
from tinkex_server.wire.training_requests import lora_shape


async def create_model(state: BridgeState, call: Call[CreateModelRequest]) -> Mapping[str, Any]:
    body = call.body
    identity = call.identify(body.session_id, body.model_seq_id, "create_model")
    return submit_creation(
        state, call.access, identity, lambda: _new_model(state, call.access, body, identity)
    )


def _new_model(
    state: BridgeState, access: Access, body: CreateModelRequest, identity: RequestIdentity
) -> NewModel:
    shape = body.lora_config
    row = new_model_row(
        state,
        access,
        identity,
        base_model=body.base_model,
        lora=lora_shape(shape),
        optimizer=optimizer_kind(body.optimizer_config),
        metadata=body.user_metadata,
    )
    session, upstream = state.session(row.session_id), state.upstreams.for_model(row.base_model)

    async def create() -> Sequence[str]:
        optimizer = None if row.optimizer == "adamw" else optimizer_config(row.optimizer)

        async def make(begun: Session) -> None:
            client = await new_model(
                begun, row.base_model, shape, dict(row.user_metadata), optimizer
            )
            state.keep_model(row.model_id, upstream.url, begun, client)

        await or_failure(upstream.url, lambda: upstream.in_session(session, make))
        return ()

    return NewModel(row, create, CreateModelResponse(row.model_id, "create_model").to_dict())


async def get_info(state: BridgeState, call: Call[GetInfoRequest]) -> Mapping[str, Any]:
    """Answers with what the server behind the bridge tells of the model; with what the bridge knows
    where the server does not tell.
    """
    row = call.access.run(call.body.model_id)
    client = state.models.get(row.model_id)
    known = GetInfoResponse(
        model_id=row.model_id,
        model_data=ModelData(model_name=row.base_model, tokenizer_id=row.base_model),
        model_name=row.base_model,
        is_lora=True,
        lora_rank=row.lora.rank,
        optimizer_config=optimizer_config(row.optimizer),
        type="get_info",
    ).to_dict()
    if client is None:
        return known
    told = await _told_info(client, state.upstream_of(client).url)
    return {**known, **told, "model_id": row.model_id}


async def _told_info(client: AsyncTrainingClient, url: str) -> Mapping[str, Any]:
    async with refusing(url):
        try:
            told = (await client.get_info()).to_dict()
        except (UnsupportedByServer, NotFoundError):
            return {}
    data = {**told.get("model_data", {})}
    data["model_name"] = data.get("model_name") or client.base_model
    return {**told, "model_data": data}


async def tokenizer(state: BridgeState, call: Call[None]) -> Mapping[str, Any]:
    base_model = call.query.get("base_model", "")
    upstream = state.upstreams.for_model(base_model)
    async with refusing(upstream.url):
        await upstream.discovered()
        answer = await upstream.transport.send(get_tokenizer.request(base_model=base_model))
    return answer.to_dict()


ROUTES = [
    get("/tokenizer", tokenizer),
    post("/create_model", CreateModelRequest, create_model),
    post("/get_info", GetInfoRequest, get_info),
    post("/unload_model", UnloadModelRequest, unload_model),
]
