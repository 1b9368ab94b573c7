"""The routes of models: creation, description, unloading."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tinkex_api.models import (
    CreateModelRequest,
    CreateModelResponse,
    GetInfoRequest,
    GetInfoResponse,
    ModelData,
    TokenizerResponse,
    UnloadModelRequest,
    UnloadModelResponse,
    UntypedAPIFuture,
)

from tinkex_server.access.ownership import Access
from tinkex_server.engine.interface import ModelInfo
from tinkex_server.errors import not_found
from tinkex_server.jobs.requests import RequestIdentity
from tinkex_server.routes.support.endpoint import Call, get, post
from tinkex_server.rules import lifecycle
from tinkex_server.rules.model_creation import NewModel, new_model_row, submit_creation
from tinkex_server.state import CommonState, ServerState
from tinkex_server.wire.json import encode
from tinkex_server.wire.optimizers import optimizer_config, optimizer_kind
from tinkex_server.wire.training_requests import lora_shape


async def tokenizer(state: ServerState, call: Call[None]) -> Mapping[str, Any]:
    name = call.query.get("base_model", "")
    model = state.base_models.get(name)
    if model is None or model.tokenizer_json is None:
        raise not_found(f"this server has no tokenizer of {name!r}")
    return TokenizerResponse(model.tokenizer_json, model.tokenizer_config_json).to_dict()


async def create_model(state: ServerState, call: Call[CreateModelRequest]) -> Mapping[str, Any]:
    body = call.body
    identity = call.identify(body.session_id, body.model_seq_id, "create_model")
    return submit_creation(
        state, call.access, identity, lambda: _new_model(state, call.access, body, identity)
    )


def _new_model(
    state: ServerState, access: Access, body: CreateModelRequest, identity: RequestIdentity
) -> NewModel:
    lora, optimizer = lora_shape(body.lora_config), optimizer_kind(body.optimizer_config)
    row = new_model_row(
        state,
        access,
        identity,
        base_model=body.base_model,
        lora=lora,
        optimizer=optimizer,
        metadata=body.user_metadata,
    )

    async def create() -> Sequence[str]:
        return await state.lanes.call(
            state.engine.create_model, row.model_id, row.base_model, row.lora, row.optimizer
        )

    return NewModel(row, create, CreateModelResponse(row.model_id, "create_model").to_dict())


async def get_info(state: ServerState, call: Call[GetInfoRequest]) -> Mapping[str, Any]:
    row = call.access.run(call.body.model_id)
    base = state.base_model(row.base_model)
    return GetInfoResponse(
        model_id=row.model_id,
        model_data=ModelData(base.arch, base.name, _tokenizer_id(base, call)),
        model_name=base.name,
        is_lora=True,
        lora_rank=row.lora.rank,
        optimizer_config=optimizer_config(row.optimizer),
        type="get_info",
    ).to_dict()


def _tokenizer_id(base: ModelInfo, call: Call[GetInfoRequest]) -> str:
    """Returns the name by which transformers can load the tokenizer: for a client on this machine
    the folder, as the hub may not have the model.
    """
    return base.folder if base.folder and call.is_local else base.tokenizer_id


async def unload_model(state: CommonState, call: Call[UnloadModelRequest]) -> Mapping[str, Any]:
    """Unloads a model after the requests whose turn has come. It accepts no more requests."""
    row = call.access.model(call.body.model_id)
    lifecycle.retire_model(state, row)
    state.store.audit.add(row.owner, "model.unloaded", {"model_id": row.model_id}, time.time())

    async def work() -> bytes:
        await lifecycle.unload_model(state, row.model_id)
        return encode(UnloadModelResponse(row.model_id, "unload_model").to_dict())

    identity = call.identify(row.model_id, None, "unload_model")
    request_id = state.futures.submit(identity, work, lane=row.model_id, number=None)
    return UntypedAPIFuture(request_id, row.model_id).to_dict()


ROUTES = [
    get("/tokenizer", tokenizer),
    post("/create_model", CreateModelRequest, create_model),
    post("/get_info", GetInfoRequest, get_info),
    post("/unload_model", UnloadModelRequest, unload_model),
]
