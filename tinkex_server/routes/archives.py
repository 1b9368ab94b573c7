"""Downloads of checkpoints by signed URLs: single files, or all files as a tar."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from starlette.responses import Response

from tinkex_server.checkpoint_path import EXTERNAL_WEIGHTS
from tinkex_server.data_dir import digests
from tinkex_server.errors import bad_request, not_found
from tinkex_server.routes.support.checkpoints import path_of
from tinkex_server.routes.support.downloads import (
    file_named,
    redirect_to_archive,
    send,
    signed_files,
)
from tinkex_server.routes.support.endpoint import Call, get
from tinkex_server.rules.checkpoint_urls import CHECKPOINT
from tinkex_server.state import CommonState
from tinkex_server.store import CheckpointRow
from tinkex_server.wire.content import Content, files_of, of_file, of_folder
from tinkex_server.wire.responses import json_response

_PATIENCE = 5.0
"""Seconds that a request waits while its tar is prepared; then the client is told to retry."""
_FILE = f"{CHECKPOINT}/files/{{file}}"


async def archive(state: CommonState, call: Call[None]) -> Response:
    """Redirects to the tar. The answer is 503 as long as the tar is not ready."""
    row = call.access.checkpoint(path_of(call))
    try:
        async with asyncio.timeout(_PATIENCE):
            await state.downloads.get(*_tar(state, row))
    except TimeoutError:
        response = json_response(
            503, {"detail": f"the archive of {row.path} is being prepared; try again"}
        )
        response.headers["Retry-After"] = "2"
        return response
    return redirect_to_archive(state, call, row.path)


async def download(state: CommonState, call: Call[None]) -> Response:
    """Sends the tar, to a signed URL or to a key that may read the checkpoint."""
    row = call.access.checkpoint(path_of(call))
    return await _send(state, call, *_tar(state, row), "application/x-tar", f"{row.path.name}.tar")


async def external_weights_urls(state: CommonState, call: Call[None]) -> Mapping[str, Any]:
    row = call.access.checkpoint(path_of(call))
    if row.path.kind != EXTERNAL_WEIGHTS:
        raise bad_request(
            f"{row.path} is not of the kind {EXTERNAL_WEIGHTS}; download its archive instead"
        )
    folder = _folder(state, row)
    digests.check_exist(folder)
    return signed_files(state, call, row.path, files_of(folder))


async def download_file(state: CommonState, call: Call[None]) -> Response:
    """Sends one file, to a signed URL or to a key that may read the checkpoint."""
    row = call.access.checkpoint(path_of(call))
    file = file_named(row.path, files_of(_folder(state, row)), call.path["file"])
    plan = partial(_checked_file, file)
    return await _send(
        state, call, (file, row.created_at), plan, "application/octet-stream", file.name
    )


async def _send(
    state: CommonState,
    call: Call[None],
    key: object,
    plan: partial[Content],
    media_type: str,
    file_name: str,
) -> Response:
    outline = partial(plan, whole=False)
    return await send(state, call, key, plan, media_type, file_name, outline=outline)


def _tar(state: CommonState, row: CheckpointRow) -> tuple[object, partial[Content]]:
    """Returns the key under which the download is cached, and a function that plans it."""
    folder = _folder(state, row)
    return (folder, row.created_at), partial(_checked_folder, folder, row.created_at)


def _checked_folder(folder: Path, modified: float, *, whole: bool = True) -> Content:
    """Returns a folder's files as one tar.

    Raises `InvalidRequest` for files that differ from what was saved; unless `whole`, only for
    missing files.
    """
    (digests.check if whole else digests.check_exist)(folder)
    return of_folder(folder, modified)


def _checked_file(file: Path, *, whole: bool = True) -> Content:
    """Returns one file; raises `InvalidRequest` as above."""
    if whole:
        digests.check_files(file.parent, [file.name])
    return of_file(file)


def _folder(state: CommonState, row: CheckpointRow) -> Path:
    folder = state.folders.path(row.folder)
    if not folder.is_dir():
        raise not_found(f"the files of {row.path} are no longer in the data folder")
    return folder


ROUTES = [
    get(f"{CHECKPOINT}/archive", archive),
    get(f"{CHECKPOINT}/download", download),
    get(f"{CHECKPOINT}/external_weights_urls", external_weights_urls),
    get(_FILE, download_file),
]
