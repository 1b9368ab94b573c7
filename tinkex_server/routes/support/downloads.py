"""Answers to downloads of checkpoints: redirects, signed URLs and files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

from starlette.responses import RedirectResponse, Response
from tinkex_api.models import ExternalWeightsUrlsResponse, SignedUrls

from tinkex_server.access.signed_urls import LIFETIME
from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.errors import not_found
from tinkex_server.routes.support.endpoint import Call
from tinkex_server.routes.support.formatting import moment
from tinkex_server.rules.checkpoint_urls import archive_url, file_url
from tinkex_server.state import CommonState
from tinkex_server.wire.content import Content
from tinkex_server.wire.downloads import answer, describe


def redirect_to_archive(state: CommonState, call: Call[None], path: CheckpointPath) -> Response:
    """Returns a redirect to the signed URL of a checkpoint's tar."""
    expires = int(time.time()) + LIFETIME
    url = archive_url(state.signer, call.origin, path, expires)
    return RedirectResponse(url, 302, {"Expires": formatdate(expires, usegmt=True)})


def signed_files(
    state: CommonState, call: Call[None], path: CheckpointPath, files: Iterable[Path]
) -> Mapping[str, Any]:
    """Returns the answer with the signed URLs of a checkpoint's files."""
    urls, expires = SignedUrls(), int(time.time()) + LIFETIME
    for file in files:
        urls[file.name] = file_url(state.signer, call.origin, path, file.name, expires)
    return ExternalWeightsUrlsResponse(urls, moment(expires)).to_dict()


def file_named(path: CheckpointPath, files: Iterable[Path], name: str) -> Path:
    """Returns the file with this name. Raises `Refused` if the checkpoint has none."""
    by_name = {file.name: file for file in files}
    if name not in by_name:
        raise not_found(f"{path} has no file {name!r}; it has {', '.join(by_name)}")
    return by_name[name]


async def send(
    state: CommonState,
    call: Call[None],
    key: object,
    plan: partial[Content],
    media_type: str,
    file_name: str,
    *,
    outline: Callable[[], Content],
) -> Response:
    """Returns the answer with a download's content, or, to HEAD, its description.

    Args:
        state: the state of the server.
        call: the request.
        key: the key under which the content is cached.
        plan: makes the content.
        media_type: its media type.
        file_name: the name under which clients keep it.
        outline: makes the content for a description alone, with fewer checks than `plan`.
    """
    if call.method == "HEAD":
        return describe(outline(), state.downloads.known(key), media_type, file_name)
    return answer(await state.downloads.get(key, plan), call.headers, media_type, file_name)
