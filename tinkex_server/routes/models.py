"""Models: made, described, unloaded."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from attrs import frozen
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
    UserMetadata,
)

from tinkex_server.access.ownership import Access
from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.engine.interface import EngineDied, LoraShape, ModelInfo, OptimizerKind
from tinkex_server.errors import bad_request, malformed, not_found
from tinkex_server.jobs.futures import Ticket
from tinkex_server.limits import check_at_most
from tinkex_server.routes.endpoint import Call, get, post
from tinkex_server.state import ServerState
from tinkex_server.store import ModelRow
from tinkex_server.wire.json import encode
from tinkex_server.wire.optimizers import optimizer_config, optimizer_kind
from tinkex_server.wire.training_requests import lora_shape

logger = logging.getLogger("tinkex.local")


@frozen
class NewModel:
    """A model to be made: its row, the engine's call that makes it, what its sender is told then,
    and what it is loaded from.
    """

    row: ModelRow
    make: Callable[[], Awaitable[Sequence[str]]]
    """It gives what its maker should know."""
    result: Mapping[str, Any]
    source: CheckpointPath | None = None
    optimizer: bool = True  # whether with the optimizer's state


async def tokenizer(state: ServerState, call: Call[None]) -> Mapping[str, Any]:
    name = call.query.get("base_model", "")
    model = state.base_models.get(name)
    if model is None or model.tokenizer_json is None:
        raise not_found(f"no tokenizer of {name!r} is here")
    return TokenizerResponse(model.tokenizer_json, model.tokenizer_config_json).to_dict()


async def create_model(state: ServerState, call: Call[CreateModelRequest]) -> Mapping[str, Any]:
    body = call.body
    ticket = Ticket(
        body.session_id, body.model_seq_id, "create_model", call.fingerprint, call.access.new_owner
    )
    return start_model(
        state, call.access, ticket, lambda: _new_model(state, call.access, body, ticket)
    )


def start_model(
    state: ServerState, access: Access, ticket: Ticket, prepare: Callable[[], NewModel]
) -> Mapping[str, Any]:
    """Makes the model of the ticket's number in the ticket's session, unless that was asked for
    before.

    `prepare` refuses what can be seen to be wrong, before the number is taken.
    """
    access.session(ticket.scope)
    request_id = state.futures.repeated(ticket) or _submit(state, ticket, prepare())
    return UntypedAPIFuture(request_id, state.ids.model_of(ticket.scope, ticket.seq_id)).to_dict()


def creating(
    state: ServerState,
    access: Access,
    ticket: Ticket,
    base_model: str,
    lora: LoraShape,
    optimizer: OptimizerKind,
    metadata: UserMetadata | None,
) -> ModelRow:
    """The row of a model that is about to be made. Raises `Refused` for one that this session
    cannot have.
    """
    session = access.open_session(ticket.scope)
    if ticket.seq_id is None or ticket.seq_id < 0:
        raise malformed("model_seq_id", message="must be 0 or more")
    check_at_most(state.limits.rank, lora.rank, "lora_config", "rank")
    model_id = state.ids.model_of(session.session_id, ticket.seq_id)
    if state.store.models.get(model_id):
        raise bad_request(
            f"model_seq_id {ticket.seq_id} of session {ticket.scope!r} was used before; take the "
            "next number"
        )
    if state.store.models.count_in_memory() >= state.limits.models:
        raise bad_request(
            f"{state.limits.models} models are in memory, as many as may be; unload one, or "
            "finish its session"
        )
    return ModelRow(
        model_id=model_id,
        session_id=session.session_id,
        base_model=state.base_model(base_model).name,
        lora=lora,
        optimizer=optimizer,
        user_metadata=metadata or {},
        state="creating",
        created_at=time.time(),
        last_request_at=time.time(),
    )


def _new_model(
    state: ServerState, access: Access, body: CreateModelRequest, ticket: Ticket
) -> NewModel:
    lora, optimizer = lora_shape(body.lora_config), optimizer_kind(body.optimizer_config)
    row = creating(state, access, ticket, body.base_model, lora, optimizer, body.user_metadata)

    async def make() -> Sequence[str]:
        return await state.lanes.call(
            state.engine.create_model, row.model_id, row.base_model, row.lora, row.optimizer
        )

    return NewModel(row, make, CreateModelResponse(row.model_id, "create_model").to_dict())


def _submit(state: ServerState, ticket: Ticket, new: NewModel) -> str:
    model_id = new.row.model_id
    state.store.models.add(new.row)

    async def work() -> bytes:
        try:
            warnings = await new.make()
        except Exception:
            state.store.models.set_state(model_id, "failed")
            raise
        state.store.models.mark_created(model_id)
        if failure := state.store.models.failure(model_id):
            raise EngineDied(failure)
        state.revival.made(model_id)
        if new.source:
            state.revival.reached(model_id, new.source, optimizer=new.optimizer)
        details = {"model_id": model_id, "base_model": new.row.base_model}
        state.store.audit.add(ticket.owner, "model.created", details, time.time())
        for words in warnings:
            logger.warning("%s: %s", model_id, words)
        return encode({**new.result, "warnings": list(warnings)} if warnings else new.result)

    return state.futures.submit(ticket, work, lane=model_id, number=None)


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
    """What transformers can load it by: on this machine the folder, of which the hub may know
    nothing.
    """
    return base.folder if base.folder and call.is_from_here else base.tokenizer_id


async def unload_model(state: ServerState, call: Call[UnloadModelRequest]) -> Mapping[str, Any]:
    """Unloads the model after the requests whose turn has come; it takes no more."""
    row = call.access.model(call.body.model_id)
    state.retire(row)
    state.store.audit.add(row.owner, "model.unloaded", {"model_id": row.model_id}, time.time())

    async def work() -> bytes:
        await state.unload(row.model_id)
        return encode(UnloadModelResponse(row.model_id, "unload_model").to_dict())

    ticket = Ticket(row.model_id, None, "unload_model", call.fingerprint, call.access.new_owner)
    request_id = state.futures.submit(ticket, work, lane=row.model_id, number=None)
    return UntypedAPIFuture(request_id, row.model_id).to_dict()


ROUTES = [
    get("/tokenizer", tokenizer),
    post("/create_model", CreateModelRequest, create_model),
    post("/get_info", GetInfoRequest, get_info),
    post("/unload_model", UnloadModelRequest, unload_model),
]
