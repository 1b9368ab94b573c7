"""Downloads of `Content` over HTTP, with its length, a digest and ranges, so that a client can
resume and check a download.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping

from attrs import define, field, frozen
from starlette.responses import Response, StreamingResponse

from tinkex_server.wire.content import Content, wanted_range

_CACHED = 1000  # digests


@frozen
class Download:
    """A content, and its digest."""

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
    """The downloads whose digests are known, or being computed. It is used on the event loop's
    thread alone.
    """

    _ready: dict[object, asyncio.Task[Download]] = field(
        factory=dict[object, asyncio.Task[Download]]
    )

    async def get(self, key: object, plan: Callable[[], Content]) -> Download:
        """Returns the download of a key. Its content is what `plan` returns, which is called once.

        The digest is computed even if the caller is cancelled. Raises what `plan` raises, and
        `OSError`.
        """
        task = self._ready.get(key)
        if task is None or (task.done() and task.exception()):
            task = self._ready[key] = asyncio.create_task(asyncio.to_thread(_with_digest, plan))
            if len(self._ready) > _CACHED:
                del self._ready[next(iter(self._ready))]
        return await asyncio.shield(task)

    def known(self, key: object) -> Download | None:
        """Returns the download of a key if its digest is known already."""
        task = self._ready.get(key)
        return task.result() if task and task.done() and not task.exception() else None


def _with_digest(plan: Callable[[], Content]) -> Download:
    content = plan()
    return Download(content, content.sha256())


def answer(
    download: Download, headers: Mapping[str, str], media_type: str, file_name: str
) -> Response:
    """Returns the answer to a GET: the whole content, or the range that the `headers` ask for."""
    size = download.content.size
    answer_headers = {**_headers(file_name), **download.headers}
    is_same = headers.get("if-range", download.etag) == download.etag
    wanted = wanted_range(headers.get("range"), size) if is_same else None
    if wanted is None:
        return _stream(download.content, range(size), 200, answer_headers, media_type)
    if not wanted:
        return Response(
            status_code=416, headers={**answer_headers, "Content-Range": f"bytes */{size}"}
        )
    place = f"bytes {wanted.start}-{wanted.stop - 1}/{size}"
    return _stream(
        download.content, wanted, 206, {**answer_headers, "Content-Range": place}, media_type
    )


def describe(content: Content, known: Download | None, media_type: str, file_name: str) -> Response:
    """Returns the answer to a HEAD. It has the headers of a GET of the whole content, but the
    digest only if that is known, since nothing is read.
    """
    answer_headers = {
        **_headers(file_name),
        **(known.headers if known else {}),
        "Content-Length": str(content.size),
    }
    return Response(headers=answer_headers, media_type=media_type)


def _headers(file_name: str) -> Mapping[str, str]:
    return {"Accept-Ranges": "bytes", "Content-Disposition": f'attachment; filename="{file_name}"'}


def _stream(
    content: Content, wanted: range, status: int, headers: Mapping[str, str], media_type: str
) -> Response:
    length = {"Content-Length": str(len(wanted))}
    return StreamingResponse(content.read(wanted), status, {**headers, **length}, media_type)
