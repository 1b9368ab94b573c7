"""Sending `Content` over HTTP: with its length, a digest, and ranges, so that a download can be
resumed and checked.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping

from attrs import define, field, frozen
from starlette.responses import Response, StreamingResponse

from tinkex_server.wire.content import Content, wanted_range

_REMEMBERED = 1000  # digests


@frozen
class Download:
    """A content with its digest."""

    content: Content
    sha256: bytes

    @property
    def etag(self) -> str:
        return f'"{self.sha256.hex()}"'

    @property
    def headers(self) -> Mapping[str, str]:
        return {
            "ETag": self.etag,
            "Repr-Digest": f"sha-256=:{base64.b64encode(self.sha256).decode()}:",
        }


@define(eq=False)
class Downloads:
    """Downloads that were made ready: each is read through once, for its digest. To be used on the
    event loop's thread.
    """

    _ready: dict[object, asyncio.Task[Download]] = field(
        factory=dict[object, asyncio.Task[Download]]
    )

    async def get(self, key: object, plan: Callable[[], Content]) -> Download:
        """What `plan` gives, called once for this key, with its digest. It is made ready even if
        the caller gives up.

        Raises what `plan` raises, and `OSError`.
        """
        task = self._ready.get(key)
        if task is None or (task.done() and task.exception()):
            task = self._ready[key] = asyncio.create_task(asyncio.to_thread(_made_ready, plan))
            if len(self._ready) > _REMEMBERED:
                del self._ready[next(iter(self._ready))]
        return await asyncio.shield(task)

    def known(self, key: object) -> Download | None:
        """What is ready for this key."""
        task = self._ready.get(key)
        return task.result() if task and task.done() and not task.exception() else None


def _made_ready(plan: Callable[[], Content]) -> Download:
    content = plan()
    return Download(content, content.sha256())


def answer(
    download: Download, headers: Mapping[str, str], media_type: str, file_name: str
) -> Response:
    """All of it, or the range that the request's `headers` ask for."""
    size = download.content.size
    facts = {**_facts(file_name), **download.headers}
    is_same = headers.get("if-range", download.etag) == download.etag
    wanted = wanted_range(headers.get("range"), size) if is_same else None
    if wanted is None:
        return _stream(download.content, range(size), 200, facts, media_type)
    if not wanted:
        return Response(status_code=416, headers={**facts, "Content-Range": f"bytes */{size}"})
    place = f"bytes {wanted.start}-{wanted.stop - 1}/{size}"
    return _stream(download.content, wanted, 206, {**facts, "Content-Range": place}, media_type)


def describe(content: Content, known: Download | None, media_type: str, file_name: str) -> Response:
    """The answer to a HEAD: as to a GET of all, but for the digest when it is not known, since
    nothing is read.
    """
    facts = {
        **_facts(file_name),
        **(known.headers if known else {}),
        "Content-Length": str(content.size),
    }
    return Response(headers=facts, media_type=media_type)


def _facts(file_name: str) -> Mapping[str, str]:
    return {"Accept-Ranges": "bytes", "Content-Disposition": f'attachment; filename="{file_name}"'}


def _stream(
    content: Content, wanted: range, status: int, headers: Mapping[str, str], media_type: str
) -> Response:
    length = {"Content-Length": str(len(wanted))}
    return StreamingResponse(content.read(wanted), status, {**headers, **length}, media_type)
