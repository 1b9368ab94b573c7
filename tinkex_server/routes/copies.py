"""Copies of saved weights, each in a training run of its own, which was never in memory."""

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
from tinkex_server.errors import Refused, malformed
from tinkex_server.jobs.futures import Outcome, Ticket, Work
from tinkex_server.routes.endpoint import Call, post
from tinkex_server.routes.weights import checked_ttl, expiry, note_saved
from tinkex_server.state import ServerState
from tinkex_server.store import CheckpointRow, ModelRow, SessionRow
from tinkex_server.wire.json import encode


async def copy_weights(state: ServerState, call: Call[CopyWeightsRequest]) -> Outcome:
    """Answers when the copy is made. One that is asked for again by session and number is made
    once.
    """
    body = call.body
    source, ttl_seconds = (
        call.access.checkpoint(checkpoint_path.parse(body.source_path)),
        checked_ttl(body.ttl_seconds),
    )
    ticket = _ticket(state, call)
    request_id = state.futures.repeated(ticket) or state.futures.submit(
        ticket,
        _copy(state, call.access.run_of(source), source, ticket, ttl_seconds),
        lane=state.ids.model_of(ticket.scope, ticket.seq_id),
        number=None,
    )
    outcome = await state.futures.wait(request_id, call.access)
    if outcome.status == 200 and outcome.result_of is None:
        told = orjson.loads(outcome.body)
        raise Refused(
            400 if told["category"] == "user" else 500,
            f"{source.path} could not be copied: {told['error']}",
        )
    return outcome


def _ticket(state: ServerState, call: Call[CopyWeightsRequest]) -> Ticket:
    """Where the copy goes: to a number of a session, or to a new session in a project."""
    body, owner = call.body, call.access.new_owner
    if (body.destination_project_id is None) == (body.session_id is None):
        raise malformed(
            "destination_project_id", message="or session_id is needed: one of them, not both"
        )
    if body.session_id is None:
        return Ticket(
            _new_session(state, body.destination_project_id, owner),
            0,
            "copy_weights",
            call.fingerprint,
            owner,
        )
    if body.model_seq_id is None or body.model_seq_id < 0:
        raise malformed("model_seq_id", message="must be 0 or more: session_id needs it")
    call.access.open_session(body.session_id)
    return Ticket(body.session_id, body.model_seq_id, "copy_weights", call.fingerprint, owner)


def _new_session(state: ServerState, project_id: str | None, owner: str) -> str:
    now = time.time()
    row = SessionRow(
        state.ids.new_session(), ["copy_weights"], {}, "", project_id, None, now, owner
    )
    state.store.sessions.add(row)
    state.store.sessions.finish(row.session_id, "success", None, now)
    return row.session_id


def _copy(
    state: ServerState,
    run: ModelRow,
    source: CheckpointRow,
    ticket: Ticket,
    ttl_seconds: int | None,
) -> Work:
    path = CheckpointPath(
        state.ids.model_of(ticket.scope, ticket.seq_id), source.path.kind, source.path.name
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
                session_id=ticket.scope,
                state="unloaded",
                created_at=now,
                last_request_at=now,
                owner=ticket.owner,
            )
            planned = CheckpointRow(
                path, name, 0, now, expiry(now, ttl_seconds), source.user_metadata
            )
            manifest = manifests.of_checkpoint(state.store, copied_run, planned)
            size = await state.lanes.call(
                manifests.save, folder, partial(_copy_files, saved), manifest
            )
            copy = evolve(planned, size_bytes=size)
            state.store.models.add(copied_run)
            state.store.checkpoints.put(copy)
        note_saved(state, copied_run, copy, "copied")
        return encode(CopyWeightsResponse(str(path)).to_dict())

    return work


def _copy_files(saved: Path, folder: Path) -> None:
    """All but the manifest, which tells of what was saved there; the digests with them, so that the
    copy is checked by those.
    """
    shutil.copytree(saved, folder, ignore=shutil.ignore_patterns(manifests.FILE))


ROUTES = [post("/copy_weights", CopyWeightsRequest, copy_weights)]
