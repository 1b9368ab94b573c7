"""Where the files of a checkpoint are: by a redirect, a URL in JSON, a table of URLs, or in the
answer itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial

import httpx
from attrs import define, field
from tinkex_api.api.checkpoints import get_checkpoint_archive_url, get_external_weights_urls
from tinkex_api.types import UNSET, Request

from tinkex.downloads.fetch import DOWNLOAD
from tinkex.errors import (
    APIResponseValidationError,
    APIStatusError,
    CheckpointDownloadError,
    UnsupportedByServer,
)
from tinkex.transport.backoff import retry_hint
from tinkex.transport.failures import status_error
from tinkex.transport.messages import UNCOMPRESSED
from tinkex.transport.redirects import MAX_REDIRECTS, absolute_url
from tinkex.transport.transport import Transport
from tinkex.types import CheckpointArchiveUrlResponse
from tinkex.types.checkpoint_address import CheckpointAddress
from tinkex.waiting.wait import RequestState

_BEING_BUILT = (425, 503)
_PAUSE = 30.0  # seconds, where the server says no other; then only so often:
_PAUSES = 6
# seconds; a server that builds the archive before it answers says nothing meanwhile
_SILENCE = 300.0


async def archive_url(
    transport: Transport, place: CheckpointAddress
) -> CheckpointArchiveUrlResponse:
    """Where the archive can be fetched; the route itself, which wants the key, of a server that
    sends it from there.
    """
    async with AsyncExitStack() as stack:
        found = await _find(transport, _route(place, {}), stack)
        return (
            CheckpointArchiveUrlResponse(str(found.request.url))
            if isinstance(found, httpx.Response)
            else found
        )


@asynccontextmanager
async def open_archive(
    transport: Transport, place: CheckpointAddress, headers: Mapping[str, str], _anew: bool
) -> AsyncGenerator[httpx.Response]:
    """The answer that is the archive, its body unread. Each time the server is asked where it is,
    so that a URL is always a new one.
    """
    async with AsyncExitStack() as stack:
        found = await _find(transport, _route(place, headers), stack)
        if not isinstance(found, httpx.Response):
            found = await stack.enter_async_context(open_url(transport, found.url, headers))
        yield found


@define(eq=False)
class UrlTable:
    """The signed URLs of a checkpoint's files, by name."""

    transport: Transport
    place: CheckpointAddress
    urls: Mapping[str, str] = field(factory=dict[str, str])

    async def sign(self) -> None:
        """Asks the server for them."""
        request = self.place.request(get_external_weights_urls.request)
        self.urls = (await self.transport.send(request)).urls

    @asynccontextmanager
    async def open(
        self, name: str, headers: Mapping[str, str], anew: bool
    ) -> AsyncGenerator[httpx.Response]:
        """The answer that is the file, its body unread."""
        if anew:
            await self.sign()
        if name not in self.urls:
            raise CheckpointDownloadError(f"the checkpoint had a file {name!r}, and has it no more")
        async with open_url(self.transport, self.urls[name], headers) as response:
            yield response


@asynccontextmanager
async def open_url(
    transport: Transport, url: str, headers: Mapping[str, str]
) -> AsyncGenerator[httpx.Response]:
    """The 2xx answer of a URL, its body unread.

    The key goes along to a bare route of the server alone: a URL with a query is signed, and a
    right to read by itself.
    """
    for _ in range(MAX_REDIRECTS):
        if not url.startswith(("http://", "https://")):
            if url.startswith("file:"):
                raise UnsupportedByServer(
                    "the server leads to a file of its own disk in place of the checkpoint's "
                    "archive",
                    server=transport.server.dialect.name,
                    operation=DOWNLOAD,
                    advice=(
                        "Copy the file on that machine, or ask who runs the server for archives "
                        "by HTTP."
                    ),
                )
            raise APIResponseValidationError(
                f"the server gave a URL of the kind {url.partition(':')[0]!r} to fetch",
                operation=DOWNLOAD,
            )
        with_key = transport.is_own(url) and "?" not in url
        async with transport.open_url(
            url, DOWNLOAD, with_key=with_key, headers={**UNCOMPRESSED, **headers}
        ) as response:
            if response.is_redirect:
                url = _next(url, response.headers["location"])
                continue
            if not response.is_success:
                raise status_error(response, DOWNLOAD)
            yield response
            return
    raise APIResponseValidationError(
        f"the download was redirected {MAX_REDIRECTS} times", operation=DOWNLOAD
    )


def _route(
    place: CheckpointAddress, headers: Mapping[str, str]
) -> Request[CheckpointArchiveUrlResponse]:
    make = partial(
        get_checkpoint_archive_url.request,
        range_=headers.get("Range", UNSET),
        if_range=headers.get("If-Range", UNSET),
    )
    return place.request(make)


async def _find(
    transport: Transport, route: Request[CheckpointArchiveUrlResponse], stack: AsyncExitStack
) -> CheckpointArchiveUrlResponse | httpx.Response:
    """The archive's URL, or the answer that is the archive. Waits while the server builds it, at
    most `PollSettings.max_wait`.
    """
    pauses, timeout = 0, max(transport.config.timeout, _SILENCE)
    with transport.wait(RequestState(route.operation), "the archive") as wait:
        while True:
            try:
                response = await stack.enter_async_context(
                    transport.stream_answer(route, timeout=timeout)
                )
            except APIStatusError as error:
                if "location" in error.headers and 300 <= error.status_code < 400:
                    url = _next(transport.base_url + route.path, error.headers["location"])
                    return CheckpointArchiveUrlResponse(
                        url, _http_date(error.headers.get("expires"))
                    )
                pauses += "retry-after" not in error.headers
                if error.status_code not in _BEING_BUILT or pauses > _PAUSES:
                    raise
                wait.set_owner("computation", "which the server is building")
                await transport.clock.sleep(retry_hint(error.headers) or _PAUSE)
            else:
                break
    if not response.headers.get("content-type", "").startswith("application/json"):
        return response
    return await transport.read(route, response)


def _next(url: str, location: str) -> str:
    """Where a redirect leads. Raises `APIResponseValidationError` for what is no URL."""
    try:
        return absolute_url(url, location)
    except httpx.InvalidURL as error:
        raise APIResponseValidationError(
            f"the download is redirected to what is no URL: {error}", operation=DOWNLOAD
        ) from None


def _http_date(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text) if text else None
    except ValueError:
        return None
