"""The bridge's routes of downloads: files of checkpoints, which it fetches when asked for them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from starlette.responses import Response

from tinkex.bridge.failures import refusing
from tinkex.bridge.state import BridgeState
from tinkex_server.checkpoint_path import EXTERNAL_WEIGHTS
from tinkex_server.errors import Reason, Refused
from tinkex_server.routes.support.checkpoints import path_of
from tinkex_server.routes.support.downloads import (
    file_named,
    redirect_to_archive,
    send,
    signed_files,
)
from tinkex_server.routes.support.endpoint import Call, get
from tinkex_server.rules.checkpoint_urls import CHECKPOINT
from tinkex_server.wire.content import files_of, of_file, of_folder

_PATIENCE = 5.0
"""Seconds that a request waits for the files; then the client is told to try again."""


async def archive(state: BridgeState, call: Call[None]) -> Response:
    """Redirects to the tar. The answer is 503 as long as its files are being fetched."""
    path = path_of(call)
    try:
        async with asyncio.timeout(_PATIENCE):
            await _files(state, call)
    except TimeoutError as error:
        raise Refused(
            Reason.UNAVAILABLE, f"the files of {path} are being fetched; try again", retry_after=2
        ) from error
    return redirect_to_archive(state, call, path)


async def download(state: BridgeState, call: Call[None]) -> Response:
    """Sends the tar, to a signed URL or to the key that may read the checkpoint."""
    folder = await _files(state, call)
    plan = partial(of_folder, folder, folder.stat().st_mtime)
    name = f"{path_of(call).name}.tar"
    return await send(state, call, folder, plan, "application/x-tar", name, outline=plan)


async def external_weights_urls(state: BridgeState, call: Call[None]) -> Mapping[str, Any]:
    folder = await _files(state, call)
    return signed_files(state, call, path_of(call), files_of(folder))


async def download_file(state: BridgeState, call: Call[None]) -> Response:
    """Sends one file, to a signed URL or to the key that may read the checkpoint."""
    file = file_named(path_of(call), files_of(await _files(state, call)), call.path["file"])
    plan = partial(of_file, file)
    return await send(state, call, file, plan, "application/octet-stream", file.name, outline=plan)


async def _files(state: BridgeState, call: Call[None]) -> Path:
    """Returns the folder of the files of the checkpoint that the URL names."""
    where, row = state.checkpoint(call.access, str(path_of(call)))
    upstream = state.server_of(where)
    is_external = path_of(call).kind == EXTERNAL_WEIGHTS
    async with refusing(upstream.url):
        await upstream.require(
            "get_external_weights_urls" if is_external else "get_checkpoint_archive_url"
        )
        return await state.fetched.get(upstream, where.path, row.created_at if row else 0.0)


ROUTES = [
    get(f"{CHECKPOINT}/archive", archive),
    get(f"{CHECKPOINT}/download", download),
    get(f"{CHECKPOINT}/external_weights_urls", external_weights_urls),
    get(f"{CHECKPOINT}/files/{{file}}", download_file),
]
