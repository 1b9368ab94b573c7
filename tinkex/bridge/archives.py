"""The bridge's routes of downloads: files of checkpoints, which it fetches when asked for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

from starlette.responses import RedirectResponse, Response
from tinkex_api.models import ExternalWeightsUrlsResponse, SignedUrls

from tinkex.bridge.failures import refusing
from tinkex.bridge.state import BridgeState
from tinkex_server.access.signed_urls import LIFETIME
from tinkex_server.checkpoint_path import EXTERNAL_WEIGHTS
from tinkex_server.errors import Refused, not_found
from tinkex_server.routes.support.checkpoints import path_of
from tinkex_server.routes.support.endpoint import Call, get
from tinkex_server.routes.support.formatting import moment
from tinkex_server.rules.checkpoint_urls import CHECKPOINT, archive_url, file_url
from tinkex_server.wire.content import Content, files_of, of_file, of_folder
from tinkex_server.wire.downloads import answer, describe

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
            503, f"the files of {path} are being fetched; try again", retry_after=2
        ) from error
    expires = int(time.time()) + LIFETIME
    url = archive_url(state.signer, call.origin, path, expires)
    return RedirectResponse(url, 302, {"Expires": formatdate(expires, usegmt=True)})


async def download(state: BridgeState, call: Call[None]) -> Response:
    """Sends the tar, to a signed URL or to the key that may read the checkpoint."""
    folder = await _files(state, call)
    return await _send(
        state,
        call,
        partial(of_folder, folder, folder.stat().st_mtime),
        folder,
        "application/x-tar",
        f"{path_of(call).name}.tar",
    )


async def external_weights_urls(state: BridgeState, call: Call[None]) -> Mapping[str, Any]:
    folder = await _files(state, call)
    urls, expires = SignedUrls(), int(time.time()) + LIFETIME
    for file in files_of(folder):
        urls[file.name] = file_url(state.signer, call.origin, path_of(call), file.name, expires)
    return ExternalWeightsUrlsResponse(urls, moment(expires)).to_dict()


async def download_file(state: BridgeState, call: Call[None]) -> Response:
    """Sends one file, to a signed URL or to the key that may read the checkpoint."""
    files = {file.name: file for file in files_of(await _files(state, call))}
    name = call.path["file"]
    if name not in files:
        raise not_found(f"{path_of(call)} has no file {name!r}; it has {', '.join(files)}")
    plan = partial(of_file, files[name])
    return await _send(state, call, plan, files[name], "application/octet-stream", name)


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


async def _send(
    state: BridgeState,
    call: Call[None],
    plan: partial[Content],
    key: Path,
    media_type: str,
    file_name: str,
) -> Response:
    if call.method == "HEAD":
        return describe(plan(), state.downloads.known(key), media_type, file_name)
    return answer(await state.downloads.get(key, plan), call.headers, media_type, file_name)


ROUTES = [
    get(f"{CHECKPOINT}/archive", archive),
    get(f"{CHECKPOINT}/download", download),
    get(f"{CHECKPOINT}/external_weights_urls", external_weights_urls),
    get(f"{CHECKPOINT}/files/{{file}}", download_file),
]
