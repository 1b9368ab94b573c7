"""Opens the files of a checkpoint: an archive, which a server redirects to, names by its URL or
sends itself, or single files with signed URLs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TypeAlias

from attrs import define, evolve, field, frozen
from tinkex_api.api.checkpoints import get_checkpoint_archive_url, get_external_weights_urls
from tinkex_api.types import UNSET, Request

from tinkex.errors import (
    APIResponseValidationError,
    APIStatusError,
    CheckpointDownloadError,
    UnsupportedByServer,
)
from tinkex.transport.backoff import retry_hint
from tinkex.transport.failures import status_error
from tinkex.transport.messages import UNCOMPRESSED
from tinkex.transport.port import Answer
from tinkex.transport.redirects import MAX_REDIRECTS
from tinkex.transport.transport import Transport
from tinkex.transport.urls import MalformedUrl, absolute_url
from tinkex.types import CheckpointArchiveUrlResponse
from tinkex.types.checkpoint_path import CheckpointAddress
from tinkex.waiting.wait import RequestState

DOWNLOAD = "download"
"""The operation, in errors and events, of a GET that is not one of the contract's."""

_BEING_BUILT = (425, 503)
_PAUSE = 30.0  # seconds between two requests, where the server gives no Retry-After
_MAX_PAUSES = 6  # of `_PAUSE`
_BUILD_TIMEOUT = 300.0  # seconds: some servers build the archive before they answer


async def archive_url(
    transport: Transport, address: CheckpointAddress
) -> CheckpointArchiveUrlResponse:
    """Returns the archive's URL. For a server that sends the archive itself, that is the URL of the
    route, which needs the API key.
    """
    async with AsyncExitStack() as stack:
        found = await _find_archive(transport, _archive_request(address, {}), stack)
        return CheckpointArchiveUrlResponse(found.url) if isinstance(found, Answer) else found


@frozen(eq=False)
class Archive:
    """The archive of a checkpoint, as something to fetch."""

    transport: Transport
    address: CheckpointAddress

    @asynccontextmanager
    async def open(self, headers: Mapping[str, str], *, new_url: bool) -> AsyncGenerator[Answer]:
        """Yields the response with the archive, its body unread. The server is asked for the URL
        each time, so that it is always a new one, whatever `new_url` says.
        """
        async with AsyncExitStack() as stack:
            request = _archive_request(self.address, headers)
            found = await _find_archive(self.transport, request, stack)
            if not isinstance(found, Answer):
                found = await stack.enter_async_context(
                    open_url(self.transport, found.url, headers)
                )
            yield found


@frozen(eq=False)
class SignedFile:
    """One file of a checkpoint, fetched from its signed URL."""

    table: UrlTable
    name: str

    @asynccontextmanager
    async def open(self, headers: Mapping[str, str], *, new_url: bool) -> AsyncGenerator[Answer]:
        """Yields the response with the file, its body unread. `new_url` has the URL signed
        again first.
        """
        if new_url:
            await self.table.sign()
        url = self.table.urls.get(self.name)
        if url is None:
            raise CheckpointDownloadError(
                f"the checkpoint's file {self.name!r} was removed during the download"
            )
        async with open_url(self.table.transport, url, headers) as response:
            yield response


Source: TypeAlias = Archive | SignedFile
"""An archive or a file to be fetched."""


@define(eq=False)
class UrlTable:
    """The signed URLs of a checkpoint's files, by file name."""

    transport: Transport
    address: CheckpointAddress
    urls: Mapping[str, str] = field(factory=dict[str, str])

    async def sign(self) -> None:
        """Has the server sign the URLs, for the first time or anew."""
        request = get_external_weights_urls.request(*self.address.ids)
        self.urls = (await self.transport.send(request)).urls


@asynccontextmanager
async def open_url(
    transport: Transport, url: str, headers: Mapping[str, str]
) -> AsyncGenerator[Answer]:
    """Yields the 2xx response of a URL, its body unread.

    The API key is sent only to a URL of the server without a query: a URL with a query is signed,
    and needs no key.
    """
    for _ in range(MAX_REDIRECTS):
        if not url.startswith(("http://", "https://")):
            if url.startswith("file:"):
                raise UnsupportedByServer(
                    "the server answered with a path on its own disk in place of the checkpoint's "
                    "archive",
                    server=transport.server.dialect.name,
                    operation=DOWNLOAD,
                    advice=(
                        "Copy the file on that machine, or ask the server's operator to serve "
                        "archives over HTTP."
                    ),
                )
            raise APIResponseValidationError(
                f"the server gave a download URL with the scheme {url.partition(':')[0]!r}",
                operation=DOWNLOAD,
            )
        with_key = transport.is_own(url) and "?" not in url
        async with transport.open_url(
            url, DOWNLOAD, with_key=with_key, headers={**UNCOMPRESSED, **headers}
        ) as response:
            if response.is_redirect:
                url = _redirect_target(url, response.headers["location"])
                continue
            if not response.is_success:
                raise status_error(response, DOWNLOAD)
            yield response
            return
    raise APIResponseValidationError(
        f"the download was redirected {MAX_REDIRECTS} times", operation=DOWNLOAD
    )


def _archive_request(
    address: CheckpointAddress, headers: Mapping[str, str]
) -> Request[CheckpointArchiveUrlResponse]:
    request = get_checkpoint_archive_url.request(
        *address.ids,
        range_=headers.get("Range", UNSET),
        if_range=headers.get("If-Range", UNSET),
    )
    if address.kind:
        return request
    # the route of a server that takes bare names has no part for the kind
    return evolve(request, path=request.path.replace("/checkpoints//", "/checkpoints/", 1))


async def _find_archive(
    transport: Transport, request: Request[CheckpointArchiveUrlResponse], stack: AsyncExitStack
) -> CheckpointArchiveUrlResponse | Answer:
    """Returns the archive's URL, or the response that is the archive. Waits while the server builds
    it, at most `PollSettings.max_wait`.
    """
    pauses, timeout = 0, max(transport.config.timeout, _BUILD_TIMEOUT)
    with transport.wait(RequestState(request.operation), "the archive") as wait:
        while True:
            try:
                response = await stack.enter_async_context(
                    transport.stream_answer(request, timeout=timeout)
                )
            except APIStatusError as error:
                if "location" in error.headers and 300 <= error.status_code < 400:
                    url = _redirect_target(
                        transport.base_url + request.path, error.headers["location"]
                    )
                    return CheckpointArchiveUrlResponse(
                        url, _http_date(error.headers.get("expires"))
                    )
                pauses += "retry-after" not in error.headers
                if error.status_code not in _BEING_BUILT or pauses > _MAX_PAUSES:
                    raise
                wait.set_owner("computation", "the server is building the archive")
                await transport.clock.sleep(retry_hint(error.headers) or _PAUSE)
            else:
                break
    if not response.headers.get("content-type", "").startswith("application/json"):
        return response
    return await transport.read(request, response)


def _redirect_target(url: str, location: str) -> str:
    """Returns the URL of a redirect. Raises `APIResponseValidationError` for a malformed one."""
    try:
        return absolute_url(url, location)
    except MalformedUrl as error:
        raise APIResponseValidationError(
            f"the download is redirected to a malformed URL: {error}", operation=DOWNLOAD
        ) from None


def _http_date(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text) if text else None
    except ValueError:
        return None
