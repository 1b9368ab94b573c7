"""Saved weights: listed, published, given a time to live, deleted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tinkex_api.models import (
    Checkpoint,
    CheckpointsListResponse,
    Cursor,
    SetCheckpointTtlRequest,
    UserMetadata,
    WeightsInfoRequest,
    WeightsInfoResponse,
)

from tinkex_server import checkpoint_path
from tinkex_server.checkpoint_path import CHECKPOINT_TYPES, CheckpointPath
from tinkex_server.data_dir import digests, manifests
from tinkex_server.errors import Refused
from tinkex_server.routes.endpoint import Call, delete, get, post, post_nothing, put
from tinkex_server.routes.formatting import moment
from tinkex_server.routes.query import page
from tinkex_server.routes.weights import checked_ttl, expiry
from tinkex_server.state import ServerState
from tinkex_server.store import CheckpointRow
from tinkex_server.wire.optimizers import optimizer_config

CHECKPOINT = "/training_runs/{run_id}/checkpoints/{kind}/{name}"


async def list_run_checkpoints(state: ServerState, call: Call[None]) -> Mapping[str, Any]:
    """All of one's own run; of another's those that it has published."""
    run, checkpoints = (
        call.access.run(call.path["run_id"], published=True),
        state.store.checkpoints,
    )
    rows = (
        checkpoints.of_run(run.model_id)
        if call.access.sees(run.owner)
        else checkpoints.published_of_run(run.model_id)
    )
    return CheckpointsListResponse([checkpoint_facts(row) for row in rows]).to_dict()


async def list_checkpoints(state: ServerState, call: Call[None]) -> Mapping[str, Any]:
    limit, offset = page(call.query, limit=100)
    rows = state.store.checkpoints.page(call.access.owner, limit, offset)
    cursor = Cursor(offset, limit, state.store.checkpoints.count(call.access.owner))
    return CheckpointsListResponse([checkpoint_facts(row) for row in rows], cursor).to_dict()


async def publish(state: ServerState, call: Call[None]) -> Mapping[str, Any]:
    """Damaged weights are refused."""
    row = call.access.own_checkpoint(path_of(call))
    with state.folders.hold(row.folder) as folder:
        await state.lanes.call(digests.check, folder)
    return _set_public(state, call, True)


async def unpublish(state: ServerState, call: Call[None]) -> Mapping[str, Any]:
    return _set_public(state, call, False)


def _set_public(state: ServerState, call: Call[None], public: bool) -> Mapping[str, Any]:
    row, what = call.access.own_checkpoint(path_of(call)), "published" if public else "unpublished"
    if not state.store.checkpoints.set_public(row.path, public):
        raise Refused(409, f"{row.path} is {what} already")
    _renew_manifest(state, row.path)
    state.store.audit.add(
        row.owner, f"checkpoint.{what}", {"tinker_path": str(row.path)}, time.time()
    )
    return {}


async def set_ttl(state: ServerState, call: Call[SetCheckpointTtlRequest]) -> Mapping[str, Any]:
    """From now on; null keeps it for ever."""
    row, now = call.access.own_checkpoint(path_of(call)), time.time()
    ttl_seconds = checked_ttl(call.body.ttl_seconds)
    state.store.checkpoints.set_expiry(row.path, expiry(now, ttl_seconds))
    _renew_manifest(state, row.path)
    state.store.audit.add(
        row.owner,
        "checkpoint.ttl_set",
        {"tinker_path": str(row.path), "ttl_seconds": ttl_seconds},
        now,
    )
    return {}


async def delete_checkpoint(state: ServerState, call: Call[None]) -> Mapping[str, Any]:
    row = call.access.own_checkpoint(path_of(call))
    manifests.remove(state.folders.path(row.folder))
    state.store.checkpoints.delete(row.path)
    state.store.audit.add(
        row.owner, "checkpoint.deleted", {"tinker_path": str(row.path)}, time.time()
    )
    await state.remove_unused_folders()
    return {}


async def weights_info(state: ServerState, call: Call[WeightsInfoRequest]) -> Mapping[str, Any]:
    run = call.access.run_of(call.access.checkpoint(checkpoint_path.parse(call.body.tinker_path)))
    return WeightsInfoResponse(
        base_model=run.base_model,
        is_lora=True,
        lora_rank=run.lora.rank,
        train_unembed=run.lora.train_unembed,
        train_mlp=run.lora.train_mlp,
        train_attn=run.lora.train_attn,
        optimizer_config=optimizer_config(run.optimizer),
    ).to_dict()


def _renew_manifest(state: ServerState, path: CheckpointPath) -> None:
    """After a change of its row."""
    row, run = state.store.checkpoints.get(path), state.store.models.get(path.run_id)
    if row and run and (folder := state.folders.path(row.folder)).is_dir():
        manifests.put(folder, manifests.of_checkpoint(state.store, run, row))


def path_of(call: Call[Any]) -> CheckpointPath:
    """The checkpoint that the URL names."""
    return CheckpointPath(call.path["run_id"], call.path["kind"], call.path["name"])


def checkpoint_facts(row: CheckpointRow) -> Checkpoint:
    return Checkpoint(
        checkpoint_id=row.path.checkpoint_id,
        checkpoint_type=CHECKPOINT_TYPES[row.path.kind],
        time=moment(row.created_at),
        tinker_path=str(row.path),
        size_bytes=row.size_bytes,
        public=row.public,
        user_metadata=UserMetadata.from_dict(row.user_metadata) if row.user_metadata else None,
        expires_at=None if row.expires_at is None else moment(row.expires_at),
        base_model=row.base_model or None,
    )


ROUTES = [
    get("/training_runs/{run_id}/checkpoints", list_run_checkpoints),
    delete(CHECKPOINT, delete_checkpoint),
    post_nothing(f"{CHECKPOINT}/publish", publish),
    delete(f"{CHECKPOINT}/publish", unpublish),
    put(f"{CHECKPOINT}/ttl", SetCheckpointTtlRequest, set_ttl),
    get("/checkpoints", list_checkpoints),
    post("/weights_info", WeightsInfoRequest, weights_info),
]
