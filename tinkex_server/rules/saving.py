"""The rules for all that becomes a checkpoint: saves, copies and uploads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attrs import evolve
from tinkex_api.models import SaveWeightsForSamplerRequest

from tinkex_server.checkpoint_path import SAMPLER_WEIGHTS, WEIGHTS, CheckpointPath, check_name
from tinkex_server.data_dir import manifests
from tinkex_server.engine.interface import InvalidRequest
from tinkex_server.errors import Refused, bad_request, malformed
from tinkex_server.rules.records import recording
from tinkex_server.state import CommonState
from tinkex_server.store import CheckpointRow, ModelRow, SessionRow

_LONGEST_TTL = 10 * 365 * 24 * 3600


def check_ttl(seconds: int | None) -> int | None:
    """Returns the lifetime as it is. Raises `Refused` for one out of bounds."""
    if seconds is not None and not 1 <= seconds <= _LONGEST_TTL:
        raise malformed("ttl_seconds", message=f"must be 1 to {_LONGEST_TTL}, which is ten years")
    return seconds


def expiry(now: float, ttl_seconds: int | None) -> float | None:
    """Returns the end of a lifetime that begins now, in seconds since 1970."""
    return None if ttl_seconds is None else now + ttl_seconds


def check_unsaved(state: CommonState, path: CheckpointPath) -> None:
    """Raises `InvalidRequest` if there is a checkpoint of this path."""
    if state.store.checkpoints.get(path):
        raise InvalidRequest(f"{path} already exists; save under another name, or delete it first")


def check_unused(state: CommonState, session_id: str, number: int) -> None:
    """Raises `InvalidRequest` if the session has a sampling session of this number."""
    if state.store.samplers.get(state.ids.sampler_of(session_id, number)):
        raise InvalidRequest(
            f"sampling_session_seq_id {number} of session {session_id!r} was already used"
        )


def is_inflight(body: SaveWeightsForSamplerRequest) -> bool:
    """Returns whether weights are saved for sampling while the model trains on. Raises `Refused`
    for an unknown kind, and for one that does not go with the other fields.
    """
    if body.kind not in (None, "snapshot", "inflight"):
        raise malformed("kind", message="must be snapshot or inflight")
    if body.kind == "inflight" and (body.path is not None or body.ttl_seconds is not None):
        raise malformed("kind", message="cannot be inflight together with path or ttl_seconds")
    return body.kind == "inflight"


def sampler_target(row: ModelRow, body: SaveWeightsForSamplerRequest) -> CheckpointPath | int:
    """Returns where weights for sampling are saved: under a path, or in a new sampling session of
    this number. Raises `Refused` unless the body names exactly one of them.
    """
    number = body.sampling_session_seq_id
    if body.path is None:
        if number is None:
            raise malformed("path", message="must be given, or sampling_session_seq_id")
        return number
    if number is not None:
        raise malformed("sampling_session_seq_id", message="cannot be given together with path")
    return CheckpointPath(row.model_id, SAMPLER_WEIGHTS, check_name(body.path, "path"))


def without_training_state(path: CheckpointPath | str) -> Refused:
    """Returns the refusal to load a checkpoint that was saved for sampling."""
    return bad_request(
        f"{path} was saved for sampling and has no training state; load a checkpoint of "
        f"save_weights, tinker://<run id>/{WEIGHTS}/<name>"
    )


async def write_checkpoint(
    state: CommonState,
    run: ModelRow,
    planned: CheckpointRow,
    folder: Path,
    write: Callable[[Path], object],
    session: SessionRow | None = None,
) -> CheckpointRow:
    """Writes a checkpoint's files and manifest into `folder`; returns its row with the size.

    Args:
        write: creates the files in a folder; it is run in a worker thread.
        session: the run's session, if it is not in the store yet.
    """
    manifest = manifests.of_checkpoint(state.store, run, planned, session)
    size = await state.lanes.call(manifests.save, folder, write, manifest)
    return evolve(planned, size_bytes=size)


def record_checkpoint(state: CommonState, run: ModelRow, saved: CheckpointRow, event: str) -> None:
    """Adds a new checkpoint to the audit log and to the usage of the run's session."""
    details = {"tinker_path": str(saved.path), "size_bytes": saved.size_bytes}
    with recording(f"the save of {saved.path}"):
        state.store.audit.add(run.owner, f"checkpoint.{event}", details, saved.created_at)
    state.store.usage.add(
        run.owner, run.session_id, run.base_model, {"checkpoint": 1}, saved.created_at
    )
