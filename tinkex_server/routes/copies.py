"""The route that copies a checkpoint into a new training run, which is not loaded."""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path

import orjson
from attrs import evolve
from tinkex_api.models import CopyWeightsRequest, CopyWeightsResponse

from tinkex_server import checkpoint_path
from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.data_dir import manifests
from tinkex_server.errors import Reason, Refused, malformed
from tinkex_server.jobs.poll_answers import PollAnswer
from tinkex_server.jobs.requests import RequestIdentity, Work
from tinkex_server.routes.support.endpoint import Call, post
from tinkex_server.rules.lineage import note_origin
from tinkex_server.rules.saving import check_ttl, expiry, record_checkpoint, write_checkpoint
from tinkex_server.state import CommonState
from tinkex_server.store import CheckpointRow, ModelRow, SessionRow
from tinkex_server.wire.json import encode


async def copy_weights(state: CommonState, call: Call[CopyWeightsRequest]) -> PollAnswer:
    """Copies a checkpoint, and answers when the copy exists. A repeat, by session and number, gets
    the same copy.
    """
    body = call.body
    source = call.access.checkpoint(checkpoint_path.parse(body.source_path))
    ttl_seconds = check_ttl(body.ttl_seconds)
    identity = _identify(state, call)
    request_id = state.futures.find_repeated(identity) or state.futures.submit(
        identity,
        _copy(state, call.access.run_of(source), source, identity, ttl_seconds),
        lane=state.ids.model_of(identity.scope, identity.seq_id),
        number=None,
    )
    answer = await state.futures.wait(request_id, call.access)
    if answer.status == 200 and answer.result_of is None:
        failure = orjson.loads(answer.body)
        reason = Reason.BAD_REQUEST if failure["category"] == "user" else Reason.SERVER_FAULT
        raise Refused(reason, f"{source.path} could not be copied: {failure['error']}")
    return answer


def _identify(state: CommonState, call: Call[CopyWeightsRequest]) -> RequestIdentity:
    """Returns the place of the copy: a number in a session, or in a new session of a project."""
    body = call.body
    if (body.destination_project_id is None) == (body.session_id is None):
        raise malformed(
            "destination_project_id", message="must be given, or session_id, but not both"
        )
    if body.session_id is None:
        session_id = _new_session(state, body.destination_project_id, call.access.new_owner)
        return call.identify(session_id, 0, "copy_weights")
    if body.model_seq_id is None or body.model_seq_id < 0:
        raise malformed(
            "model_seq_id", message="must be 0 or more, and is required together with session_id"
        )
    call.access.open_session(body.session_id)
    return call.identify(body.session_id, body.model_seq_id, "copy_weights")


def _new_session(state: CommonState, project_id: str | None, owner: str) -> str:
    now = time.time()
    row = SessionRow(
        state.ids.new_session(), ["copy_weights"], {}, "", project_id, None, now, owner
    )
    state.store.sessions.add(row)
    state.store.sessions.finish(row.session_id, "success", None, now)
    return row.session_id


def _copy(
    state: CommonState,
    run: ModelRow,
    source: CheckpointRow,
    identity: RequestIdentity,
    ttl_seconds: int | None,
) -> Work:
    path = CheckpointPath(
        state.ids.model_of(identity.scope, identity.seq_id), source.path.kind, source.path.name
    )

    async def work() -> bytes:
        now = time.time()
        with (
            state.folders.hold(source.folder) as saved,
            state.folders.new(*path.folder_parts) as (name, folder),
        ):
            copied_run = evolve(
                run,
                model_id=path.run_id,
                session_id=identity.scope,
                state="unloaded",
                created_at=now,
                last_request_at=now,
                owner=identity.owner,
            )
            planned = CheckpointRow(
                path, name, 0, now, expiry(now, ttl_seconds), source.user_metadata, step=0
            )
            copy_files = partial(_copy_files, saved)
            copy = await write_checkpoint(state, copied_run, planned, folder, copy_files)
            state.store.models.add(copied_run)
            state.store.checkpoints.put(copy)
            note_origin(state.store, copied_run.model_id, source)
        record_checkpoint(state, copied_run, copy, "copied")
        return encode(CopyWeightsResponse(str(path)).to_dict())

    return work


def _copy_files(saved: Path, folder: Path) -> None:
    """Copies the files and their digests, by which the copy is checked. The manifest is that of the
    source, and is left out.
    """
    shutil.copytree(saved, folder, ignore=shutil.ignore_patterns(manifests.FILE))


ROUTES = [post("/copy_weights", CopyWeightsRequest, copy_weights)]
