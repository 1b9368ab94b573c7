"""Models: made, described, unloaded."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tinkex_api.models import (
    CreateModelRequest,
    CreateModelResponse,
    GetInfoRequest,
    GetInfoResponse,
    ModelData,
    UnloadModelRequest,
    UnloadModelResponse,
    UntypedAPIFuture,
)

from tinkex.local.backend import Backend
from tinkex.local.errors import bad_request, malformed
from tinkex.local.futures import Ticket
from tinkex.local.http import Call, post
from tinkex.local.store import ModelRow
from tinkex.local.translate import encode, lora_shape


async def create_model(backend: Backend, call: Call[CreateModelRequest]) -> Mapping[str, Any]:
    body = call.body
    model_id = f"{body.session_id}:train:{body.model_seq_id}"
    ticket = Ticket(body.session_id, body.model_seq_id, "create_model", call.fingerprint)
    if request_id := backend.futures.repeated(ticket):
        return UntypedAPIFuture(request_id, model_id).to_dict()
    row = _new_model(backend, body, model_id)
    backend.store.add_model(row)

    async def work() -> bytes:
        try:
            await backend.lanes.call(backend.engine.create_model, model_id, row.base_model, row.lora)
        except Exception:
            backend.store.set_model_state(model_id, "failed")
            raise
        backend.store.mark_created(model_id)
        return encode(CreateModelResponse(model_id, "create_model").to_dict())

    request_id = backend.futures.submit(ticket, work, lane=model_id, number=None)
    return UntypedAPIFuture(request_id, model_id).to_dict()


def _new_model(backend: Backend, body: CreateModelRequest, model_id: str) -> ModelRow:
    backend.open_session(body.session_id)
    backend.base_model(body.base_model)
    if body.model_seq_id < 0:
        raise malformed("model_seq_id", message="must be 0 or more")
    if body.optimizer_config and body.optimizer_config.type_ != "adamw":
        raise bad_request(f"this server has no optimizer {body.optimizer_config.type_!r}; it has 'adamw'")
    return ModelRow(
        model_id=model_id,
        session_id=body.session_id,
        base_model=body.base_model,
        lora=lora_shape(body.lora_config),
        user_metadata=body.user_metadata.additional_properties if body.user_metadata else {},
        state="creating",
        created_at=time.time(),
        last_request_at=time.time(),
    )


async def get_info(backend: Backend, call: Call[GetInfoRequest]) -> Mapping[str, Any]:
    row = backend.run(call.body.model_id)
    base = backend.base_model(row.base_model)
    return GetInfoResponse(
        model_id=row.model_id,
        model_data=ModelData(base.arch, base.name, base.tokenizer_id),
        model_name=base.name,
        is_lora=True,
        lora_rank=row.lora.rank,
        type_="get_info",
    ).to_dict()


async def unload_model(backend: Backend, call: Call[UnloadModelRequest]) -> Mapping[str, Any]:
    """Unloads the model after the requests whose turn has come; it takes no more."""
    row = backend.model(call.body.model_id)
    backend.retire(row)

    async def work() -> bytes:
        await backend.lanes.call(backend.engine.unload_model, row.model_id)
        return encode(UnloadModelResponse(row.model_id, "unload_model").to_dict())

    ticket = Ticket(row.model_id, None, "unload_model", call.fingerprint)
    request_id = backend.futures.submit(ticket, work, lane=row.model_id, number=None)
    return UntypedAPIFuture(request_id, row.model_id).to_dict()


ROUTES = [
    post("/create_model", CreateModelRequest, create_model),
    post("/get_info", GetInfoRequest, get_info),
    post("/unload_model", UnloadModelRequest, unload_model),
]
