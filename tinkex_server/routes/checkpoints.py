"""The routes of checkpoints: listing, publishing, lifetime, deletion."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tinkex_api.models import (
    CheckpointsListResponse,
    Cursor,
    SetCheckpointTtlRequest,
    WeightsInfoRequest,
    WeightsInfoResponse,
)

from tinkex_server import checkpoint_path
from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.data_dir import digests, manifests
from tinkex_server.errors import Reason, Refused
from tinkex_server.routes.support.checkpoints import describe_checkpoint, path_of
from tinkex_server.routes.support.endpoint import Call, delete, get, post, post_nothing, put
from tinkex_server.routes.support.query import page
from tinkex_server.rules import deletion
from tinkex_server.rules.checkpoint_urls import CHECKPOINT
from tinkex_server.rules.saving import check_ttl, expiry
from tinkex_server.state import CommonState
from tinkex_server.wire.optimizers import optimizer_config


async def list_run_checkpoints(state: CommonState, call: Call[None]) -> Mapping[str, Any]:
    """Lists the checkpoints of a run; of another owner's run, the published ones only."""
    run = call.access.run(call.path["run_id"], published=True)
    checkpoints = state.store.checkpoints
    if call.access.sees(run.owner):
        rows = checkpoints.of_run(run.model_id)
    else:
        rows = checkpoints.published_of_run(run.model_id)
    return CheckpointsListResponse([describe_checkpoint(row) for row in rows]).to_dict()


async def list_checkpoints(state: CommonState, call: Call[None]) -> Mapping[str, Any]:
    limit, offset = page(call.query, limit=100)
    rows = state.store.checkpoints.page(call.access.owner, limit, offset)
    cursor = Cursor(offset, limit, state.store.checkpoints.count(call.access.owner))
    return CheckpointsListResponse([describe_checkpoint(row) for row in rows], cursor).to_dict()


async def publish(state: CommonState, call: Call[None]) -> Mapping[str, Any]:
    """Publishes a checkpoint, unless its files are damaged."""
    row = call.access.own_checkpoint(path_of(call))
    with state.folders.hold(row.folder) as folder:
        await state.lanes.call(digests.check, folder)
    return _set_public(state, call, True)


async def unpublish(state: CommonState, call: Call[None]) -> Mapping[str, Any]:
    return _set_public(state, call, False)


def _set_public(state: CommonState, call: Call[None], public: bool) -> Mapping[str, Any]:
    row, what = call.access.own_checkpoint(path_of(call)), "published" if public else "unpublished"
    if not state.store.checkpoints.set_public(row.path, public):
        raise Refused(Reason.CONFLICT, f"{row.path} is already {what}")
    _renew_manifest(state, row.path)
    state.store.audit.add(
        row.owner, f"checkpoint.{what}", {"tinker_path": str(row.path)}, time.time()
    )
    return {}


async def set_ttl(state: CommonState, call: Call[SetCheckpointTtlRequest]) -> Mapping[str, Any]:
    """Sets the lifetime of a checkpoint, from now on; null removes the limit."""
    row, now = call.access.own_checkpoint(path_of(call)), time.time()
    ttl_seconds = check_ttl(call.body.ttl_seconds)
    state.store.checkpoints.set_expiry(row.path, expiry(now, ttl_seconds))
    _renew_manifest(state, row.path)
    state.store.audit.add(
        row.owner,
        "checkpoint.ttl_set",
        {"tinker_path": str(row.path), "ttl_seconds": ttl_seconds},
        now,
    )
    return {}


async def delete_checkpoint(state: CommonState, call: Call[None]) -> Mapping[str, Any]:
    await deletion.delete_checkpoint(state, call.access.own_checkpoint(path_of(call)))
    return {}


async def weights_info(state: CommonState, call: Call[WeightsInfoRequest]) -> Mapping[str, Any]:
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


def _renew_manifest(state: CommonState, path: CheckpointPath) -> None:
    """Writes the manifest again after the checkpoint's row has changed."""
    row, run = state.store.checkpoints.get(path), state.store.models.get(path.run_id)
    if row and run and (folder := state.folders.path(row.folder)).is_dir():
        manifests.put(folder, manifests.of_checkpoint(state.store, run, row))


ROUTES = [
    get("/training_runs/{run_id}/checkpoints", list_run_checkpoints),
    delete(CHECKPOINT, delete_checkpoint),
    post_nothing(f"{CHECKPOINT}/publish", publish),
    delete(f"{CHECKPOINT}/publish", unpublish),
    put(f"{CHECKPOINT}/ttl", SetCheckpointTtlRequest, set_ttl),
    get("/checkpoints", list_checkpoints),
    post("/weights_info", WeightsInfoRequest, weights_info),
]
