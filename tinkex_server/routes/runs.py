"""The routes of training runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve
from tinkex_api.models import Cursor, RunOrigin, TrainingRun, TrainingRunsResponse, UserMetadata

from tinkex_server.checkpoint_path import SAMPLER_WEIGHTS, WEIGHTS
from tinkex_server.routes.support.checkpoints import describe_checkpoint
from tinkex_server.routes.support.endpoint import Call, get
from tinkex_server.routes.support.formatting import moment, user_urn
from tinkex_server.routes.support.query import accessible, page
from tinkex_server.rules import lineage
from tinkex_server.state import CommonState
from tinkex_server.store import CheckpointRow, ModelRow, RunQuery

_MOST_RELATED = 100
"""The most runs before, and the most runs after a run, in one answer."""


async def list_training_runs(state: CommonState, call: Call[None]) -> Mapping[str, Any]:
    limit, offset = page(call.query, limit=20)
    query = RunQuery(call.access.owner, accessible(call.query), call.query.get("project_id"))
    runs = [_describe(state, row) for row in state.store.models.page(query, limit, offset)]
    return TrainingRunsResponse(
        runs, Cursor(offset, limit, state.store.models.count(query))
    ).to_dict()


async def get_training_run(state: CommonState, call: Call[None]) -> Mapping[str, Any]:
    row = call.access.run(call.path["run_id"], published=accessible(call.query))
    loads = [
        RunOrigin(load.path.run_id, str(load.path), load.after_step, step=load.step)
        for load in lineage.origins(call.access, row, _MOST_RELATED)
    ]
    later = [run.model_id for run in lineage.continuing(call.access, row, _MOST_RELATED)]
    described = _describe(state, row)
    return evolve(described, origins=loads or None, continued_by=later or None).to_dict()


def _describe(state: CommonState, row: ModelRow) -> TrainingRun:
    to_train, to_sample = (
        state.store.checkpoints.last(row.model_id, kind) for kind in (WEIGHTS, SAMPLER_WEIGHTS)
    )
    return TrainingRun(
        training_run_id=row.model_id,
        base_model=row.base_model,
        model_owner=user_urn(row.owner),
        is_lora=True,
        lora_rank=row.lora.rank,
        corrupted=_is_corrupted(row, to_train),
        last_request_time=moment(row.last_request_at),
        last_checkpoint=describe_checkpoint(to_train) if to_train else None,
        last_sampler_checkpoint=describe_checkpoint(to_sample) if to_sample else None,
        user_metadata=UserMetadata.from_dict(row.user_metadata),
    )


def _is_corrupted(row: ModelRow, saved: CheckpointRow | None) -> bool:
    """Returns whether requests of the run since its last save are lost."""
    return row.state == "failed" or (
        row.state == "lost" and (saved is None or saved.created_at < row.last_request_at)
    )


ROUTES = [
    get("/training_runs", list_training_runs),
    get("/training_runs/{run_id}", get_training_run),
]
