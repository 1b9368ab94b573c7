"""The creation of models, new ones and those loaded from a checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import frozen
from tinkex_api.models import UntypedAPIFuture, UserMetadata

from tinkex_server.access.ownership import Access
from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.engine.interface import EngineDied, LoraShape, OptimizerKind
from tinkex_server.errors import bad_request, malformed
from tinkex_server.jobs.requests import RequestIdentity
from tinkex_server.limits import check_at_most
from tinkex_server.rules.records import recording
from tinkex_server.state import CommonState
from tinkex_server.store import ModelRow
from tinkex_server.wire.json import encode

logger = logging.getLogger("tinkex.local")


@frozen
class NewModel:
    """A model that is about to be created."""

    row: ModelRow
    create: Callable[[], Awaitable[Sequence[str]]]
    """A function that has the engine create the model, and returns the engine's warnings."""
    result: Mapping[str, Any]
    """The result of the request that creates the model."""
    source: CheckpointPath | None = None
    """The checkpoint that the model is loaded from, if any."""
    optimizer: bool = True
    """Whether the optimizer's state is loaded too."""


def submit_creation(
    state: CommonState, access: Access, identity: RequestIdentity, prepare: Callable[[], NewModel]
) -> Mapping[str, Any]:
    """Queues the creation of a model, unless this is a repeat; returns the promise.

    The model belongs to the session that is the identity's scope, under the identity's number.
    `prepare` raises `Refused` for a model that cannot be created; its number is not taken then.
    """
    access.session(identity.scope)
    request_id = state.futures.find_repeated(identity)
    if request_id is None:
        new = prepare()
        state.store.models.add(new.row)
        work = partial(_create, state, identity.owner, new)
        request_id = state.futures.submit(identity, work, lane=new.row.model_id, number=None)
    model_id = state.ids.model_of(identity.scope, identity.seq_id)
    return UntypedAPIFuture(request_id, model_id).to_dict()


def new_model_row(
    state: CommonState,
    access: Access,
    identity: RequestIdentity,
    *,
    base_model: str,
    lora: LoraShape,
    optimizer: OptimizerKind,
    metadata: UserMetadata | None,
) -> ModelRow:
    """Returns the row of a model to be created. Raises `Refused` for one that the session cannot
    have.
    """
    session = access.open_session(identity.scope)
    if identity.seq_id is None or identity.seq_id < 0:
        raise malformed("model_seq_id", message="must be 0 or more")
    check_at_most(state.limits.rank, lora.rank, "lora_config", "rank")
    model_id = state.ids.model_of(session.session_id, identity.seq_id)
    if state.store.models.get(model_id):
        raise bad_request(
            f"model_seq_id {identity.seq_id} of session {identity.scope!r} was already used; use "
            "the next number"
        )
    if state.store.models.count_in_memory() >= state.limits.models:
        raise bad_request(
            f"{state.limits.models} models are in memory, which is the limit of this server; "
            "unload one, or finish its session"
        )
    now = time.time()
    return ModelRow(
        model_id=model_id,
        session_id=session.session_id,
        base_model=state.base_model(base_model).name,
        lora=lora,
        optimizer=optimizer,
        user_metadata=metadata or {},
        state="creating",
        created_at=now,
        last_request_at=now,
    )


async def _create(state: CommonState, owner: str, new: NewModel) -> bytes:
    model_id = new.row.model_id
    try:
        warnings = await new.create()
    except Exception:
        state.store.models.set_state(model_id, "failed")
        raise
    state.store.models.mark_created(model_id)
    if failure := state.store.models.failure(model_id):
        raise EngineDied(failure)
    state.note_created(model_id, new.source, optimizer=new.optimizer)
    details = {"model_id": model_id, "base_model": new.row.base_model}
    with recording(f"the creation of {model_id}"):
        state.store.audit.add(owner, "model.created", details, time.time())
    for warning in warnings:
        logger.warning("%s: %s", model_id, warning)
    return encode({**new.result, "warnings": list(warnings)} if warnings else new.result)
