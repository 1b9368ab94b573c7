"""Training runs and checkpoints."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tinkex_api.models import (
    Checkpoint,
    CheckpointsListResponse,
    Cursor,
    TrainingRun,
    TrainingRunsResponse,
    UserMetadata,
    WeightsInfoRequest,
    WeightsInfoResponse,
)

from tinkex.local import paths
from tinkex.local.backend import Backend
from tinkex.local.http import Call, delete, get, post
from tinkex.local.paths import CHECKPOINT_TYPES, CheckpointPath
from tinkex.local.routes.paging import page
from tinkex.local.store import CheckpointRow, ModelRow
from tinkex.local.translate import optimizer_config

_OWNER = "local"  # there are no users yet


async def list_training_runs(backend: Backend, call: Call[None]) -> Mapping[str, Any]:
    limit, offset = page(call.query, limit=20)
    runs = [_run(backend, row) for row in backend.store.models(limit, offset)]
    return TrainingRunsResponse(runs, Cursor(offset, limit, backend.store.count_models())).to_dict()


async def get_training_run(backend: Backend, call: Call[None]) -> Mapping[str, Any]:
    return _run(backend, backend.run(call.path["run_id"])).to_dict()


async def list_run_checkpoints(backend: Backend, call: Call[None]) -> Mapping[str, Any]:
    run = backend.run(call.path["run_id"])
    return CheckpointsListResponse([_checkpoint(row) for row in backend.store.checkpoints_of(run.model_id)]).to_dict()


async def list_checkpoints(backend: Backend, call: Call[None]) -> Mapping[str, Any]:
    limit, offset = page(call.query, limit=100)
    rows = backend.store.checkpoints(limit, offset)
    cursor = Cursor(offset, limit, backend.store.count_checkpoints())
    return CheckpointsListResponse([_checkpoint(row) for row in rows], cursor).to_dict()


async def delete_checkpoint(backend: Backend, call: Call[None]) -> Mapping[str, Any]:
    """Deletes the row first: what is not listed is not there, should the folder outlive it."""
    path = CheckpointPath(call.path["run_id"], call.path["kind"], call.path["name"])
    backend.checkpoint(path)
    backend.store.delete_checkpoint(path)
    folder = path.folder(backend.data_dir)
    if folder.exists():
        doomed = folder.rename(folder.with_name(f".deleted-{secrets.token_hex(8)}"))  # the name may be saved under anew at once
        await asyncio.to_thread(shutil.rmtree, doomed, ignore_errors=True)
    return {}


async def weights_info(backend: Backend, call: Call[WeightsInfoRequest]) -> Mapping[str, Any]:
    path = paths.parse(call.body.tinker_path)
    backend.checkpoint(path)
    run = backend.run(path.run_id)
    return WeightsInfoResponse(
        base_model=run.base_model,
        is_lora=True,
        lora_rank=run.lora.rank,
        train_unembed=run.lora.train_unembed,
        train_mlp=run.lora.train_mlp,
        train_attn=run.lora.train_attn,
        optimizer_config=optimizer_config(run.optimizer),
    ).to_dict()


def _run(backend: Backend, row: ModelRow) -> TrainingRun:
    run = TrainingRun(
        training_run_id=row.model_id,
        base_model=row.base_model,
        model_owner=_OWNER,
        is_lora=True,
        lora_rank=row.lora.rank,
        corrupted=False,
        last_request_time=_iso(row.last_request_at),
        user_metadata=UserMetadata.from_dict(row.user_metadata),
    )
    for checkpoint in reversed(backend.store.checkpoints_of(row.model_id)):  # the newest is written last
        if checkpoint.path.kind == paths.SAMPLER_WEIGHTS:
            run.last_sampler_checkpoint = _checkpoint(checkpoint)
        elif checkpoint.path.kind == paths.WEIGHTS:
            run.last_checkpoint = _checkpoint(checkpoint)
    return run


def _checkpoint(row: CheckpointRow) -> Checkpoint:
    return Checkpoint(
        checkpoint_id=row.path.checkpoint_id,
        checkpoint_type=CHECKPOINT_TYPES[row.path.kind],
        time=_iso(row.created_at),
        tinker_path=str(row.path),
        size_bytes=row.size_bytes,
        public=False,
        expires_at=None if row.expires_at is None else _iso(row.expires_at),
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


ROUTES = [
    get("/training_runs", list_training_runs),
    get("/training_runs/{run_id}", get_training_run),
    get("/training_runs/{run_id}/checkpoints", list_run_checkpoints),
    delete("/training_runs/{run_id}/checkpoints/{kind}/{name}", delete_checkpoint),
    get("/checkpoints", list_checkpoints),
    post("/weights_info", WeightsInfoRequest, weights_info),
]
