"""The fields of a training run, as the commands write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinkex.types import Checkpoint, TrainingRun

FIELDS = (
    "id",
    "name",
    "model",
    "owner",
    "lora",
    "updated",
    "status",
    "checkpoint",
    "checkpoint_time",
    "sampler_checkpoint",
    "user_metadata",
)
COLUMNS = ("id", "model", "lora", "updated", "status", "name")


def row_of(run: TrainingRun) -> dict[str, Any]:
    """Returns a training run as a row of these fields. `lora` is the rank of the adapter."""
    last: Checkpoint | None = run.last_checkpoint
    sampler: Checkpoint | None = run.last_sampler_checkpoint
    metadata = run.user_metadata.to_dict() if run.user_metadata else {}
    return {
        "id": run.training_run_id,
        "name": metadata.get("name"),
        "model": run.base_model,
        "owner": run.model_owner,
        "lora": run.lora_rank,
        "updated": run.last_request_time,
        "status": "state lost" if run.corrupted else "ok",
        "checkpoint": last.tinker_path if last else None,
        "checkpoint_time": last.time if last else None,
        "sampler_checkpoint": sampler.tinker_path if sampler else None,
        "user_metadata": metadata,
    }
