"""The routes of uploads, which make a checkpoint of an adapter from elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve
from tinkex_api.models import (
    ExternalWeightsUploadFinishRequest,
    ExternalWeightsUploadFinishResponse,
    ExternalWeightsUploadStartRequest,
    ExternalWeightsUploadStartResponse,
    ExternalWeightsUploadURL,
    UploadUrls,
)

from tinkex_server.access.ownership import Access
from tinkex_server.access.signed_urls import LIFETIME, signed_url
from tinkex_server.checkpoint_path import EXTERNAL_WEIGHTS, CheckpointPath
from tinkex_server.data_dir.uploads import Upload
from tinkex_server.engine.interface import ADAPTER_FILES, EngineDied
from tinkex_server.errors import Reason, Refused, bad_request, not_found
from tinkex_server.limits import check_at_most
from tinkex_server.routes.support.endpoint import Call, post, put_bytes
from tinkex_server.routes.support.formatting import moment
from tinkex_server.rules.saving import record_checkpoint, write_checkpoint
from tinkex_server.state import ServerState
from tinkex_server.store import CheckpointRow, ModelRow, SessionRow
from tinkex_server.wire.raw_body import receive_file
from tinkex_server.wire.scope import PREFIX
from tinkex_server.wire.training_requests import lora_shape

_NAME = "uploaded"
_FILE = "/external_weights_uploads/{upload_id}/{file}"
_PAUSE = 5
"""Seconds after which an engine that died may have been restarted."""
_BARE_URLS = "0.39."
"""The releases of the official client that expect each URL as a string."""


async def start(
    state: ServerState, call: Call[ExternalWeightsUploadStartRequest]
) -> Mapping[str, Any]:
    """Starts an upload, and returns a signed URL for each file."""
    body = call.body
    shape = evolve(lora_shape(body.lora_config), seed=None)  # the weights come from the files
    check_at_most(state.limits.rank, shape.rank, "lora_config", "rank")
    expires = int(time.time()) + LIFETIME
    upload = Upload(
        state.ids.new_session(),
        call.access.new_owner,
        state.base_model(body.base_model).name,
        shape,
        body.destination_project_id,
        expires,
    )
    state.uploads.create(upload)
    urls = UploadUrls()
    bare = call.headers.get("x-stainless-package-version", "").startswith(_BARE_URLS)
    for name in ADAPTER_FILES:
        path = PREFIX + _FILE.format(upload_id=upload.upload_id, file=name)
        url = signed_url(state.signer, call.origin, path, expires)
        urls[name] = url if bare else ExternalWeightsUploadURL(url)
    return ExternalWeightsUploadStartResponse(upload.upload_id, urls, moment(expires)).to_dict()


async def receive(state: ServerState, call: Call[None]) -> Mapping[str, Any]:
    """Receives one file, by its signed URL or from the upload's owner. A file that is sent again
    replaces the earlier one.
    """
    upload = _upload(state, call.access, call.path["upload_id"])
    name = call.path["file"]
    if name not in ADAPTER_FILES:
        raise not_found(f"an upload has no file {name!r}; it has {' and '.join(ADAPTER_FILES)}")
    with state.uploads.new_file(upload.upload_id, name) as file:
        await receive_file(call.headers, call.receive, file, state.limits.upload_bytes)
    return {}


async def finish(
    state: ServerState, call: Call[ExternalWeightsUploadFinishRequest]
) -> Mapping[str, Any]:
    """Checks the files and makes a checkpoint of them. A repeat returns the same checkpoint."""
    upload_id = call.body.upload_id
    path = CheckpointPath(state.ids.model_of(upload_id, 0), EXTERNAL_WEIGHTS, _NAME)
    async with state.uploads.finish_lock:
        made = state.store.checkpoints.get(path)
        if made is None or not call.access.sees(made.owner):
            await _make(state, _whole(state, call.access, upload_id), path)
            state.uploads.remove(upload_id)
    return ExternalWeightsUploadFinishResponse(str(path)).to_dict()


def _upload(state: ServerState, access: Access, upload_id: str) -> Upload:
    """Returns an upload that the caller may see. Raises `Refused`."""
    upload = state.uploads.get(upload_id)
    if upload is None or not access.sees(upload.owner):
        raise not_found(f"unknown upload {upload_id!r}")
    if upload.expires_at <= time.time():
        raise Refused(Reason.GONE, f"upload {upload_id!r} has expired; start another")
    return upload


def _whole(state: ServerState, access: Access, upload_id: str) -> Upload:
    """Returns an upload whose files are complete. Raises `Refused`."""
    upload = _upload(state, access, upload_id)
    if lacking := state.uploads.missing_files(upload_id):
        raise bad_request(
            f"{' and '.join(lacking)} of upload {upload_id!r} is missing; PUT each file to its URL "
            "before you finish the upload"
        )
    return upload


async def _make(state: ServerState, upload: Upload, path: CheckpointPath) -> None:
    """Makes the checkpoint, in a new training run and a new session, both of which have ended."""
    now = time.time()
    session = SessionRow(
        upload.upload_id,
        ["upload"],
        {},
        "",
        upload.project_id,
        None,
        now,
        upload.owner,
        now,
        "success",
    )
    run = ModelRow(
        model_id=path.run_id,
        session_id=session.session_id,
        base_model=upload.base_model,
        lora=upload.lora,
        optimizer="adamw",
        user_metadata={},
        state="unloaded",
        created_at=now,
        last_request_at=now,
        owner=upload.owner,
    )
    with state.folders.new(*path.folder_parts) as (name, folder):
        planned = CheckpointRow(path, name, 0, now, None)
        write = partial(_import, state, upload)
        try:
            saved = await write_checkpoint(state, run, planned, folder, write, session)
        except EngineDied as error:
            raise Refused(Reason.UNAVAILABLE, str(error), retry_after=_PAUSE) from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise Refused(
                Reason.STORAGE_FULL, f"the adapter could not be written: {reason}"
            ) from error
        state.store.sessions.restore(session)
        state.store.models.add(run)
        state.store.checkpoints.put(saved)
    record_checkpoint(state, run, saved, "uploaded")


def _import(state: ServerState, upload: Upload, folder: Path) -> None:
    source = state.uploads.folder(upload.upload_id)
    state.engine.import_adapter(upload.base_model, upload.lora, source, folder)


ROUTES = [
    post("/external_weights_upload_start", ExternalWeightsUploadStartRequest, start),
    put_bytes(_FILE, receive),
    post("/external_weights_upload_finish", ExternalWeightsUploadFinishRequest, finish),
]
