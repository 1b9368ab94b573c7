"""Uploads: an adapter's files sent to where a server says, each as one PUT."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Generator, Mapping
from contextvars import ContextVar
from datetime import datetime
from os import PathLike
from pathlib import Path

import httpx
from attrs import field, frozen
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter
from tinkex_api import models as api

from tinkex.config.secrets import without_queries
from tinkex.errors import APIConnectionError, APIStatusError
from tinkex.threads import in_thread
from tinkex.transport.failures import connection_error, failure_point_of, status_error

_uploading: ContextVar[bool] = ContextVar("uploading", default=False)


def _hide_signature(record: logging.LogRecord) -> bool:
    """Takes the query out of the URLs in httpx's own lines about an upload."""
    if _uploading.get() and isinstance(record.args, tuple):
        record.args = tuple(
            without_queries(str(given)) if isinstance(given, httpx.URL) else given
            for given in record.args
        )
    return True


logging.getLogger("httpx").addFilter(_hide_signature)

UPLOAD = "upload"
"""The operation, in errors, of what no route of the contract is asked for."""
_PIECE = 1 << 20  # bytes
_TRIES = 4
_PAUSES = wait_exponential_jitter(1, 20)  # seconds
_TIMEOUT = httpx.Timeout(60.0)  # seconds for each piece, and for the answer
_PASSING = frozenset({408, 429})

Came = Callable[[int], object]
"""Is given how many bytes of the file were sent: from the start again where it is tried again."""


@frozen
class UploadURL:
    """Where one file of an upload goes: a signed URL, which wants no key.

    Example:
        start = rest.external_weights_upload_start(base_model=model, lora_config=LoraConfig(rank=8))
        for name, url in start.urls.items():
            url.upload(folder / name)
    """

    url: str = field(repr=lambda url: repr(url.partition("?")[0]))
    headers: Mapping[str, str] = field(factory=dict[str, str], repr=False)
    """Headers that the PUT must have, by name."""

    def upload(self, path: str | PathLike[str]) -> None:
        """Sends the file at `path`, piece by piece, and returns when the server has it; blocks.

        Raises:
            APIConnectionError: the server cannot be reached, and trying again did not help.
            APIStatusError: the server refuses the file; 403 where the URL's time is over.
            OSError: the file cannot be read.
        """
        _put(self, Path(path), lambda sent: None, threading.Event())


@frozen
class ExternalWeightsUploadStartResult:
    """An upload that has begun."""

    upload_id: str
    """Names the upload when it is finished."""
    urls: Mapping[str, UploadURL]
    """Where each file goes, by its name."""
    expires: datetime
    """Until when the URLs hold."""


@frozen
class ExternalWeightsUploadFinishResult:
    """The checkpoint that was made of an upload."""

    tinker_path: str
    """`tinker://<training run>/external_weights/<name>`."""


def started(response: api.ExternalWeightsUploadStartResponse) -> ExternalWeightsUploadStartResult:
    """Returns what a server answered, whose URLs are texts or objects by its release."""
    urls = {name: _url(where) for name, where in response.urls.items()}
    return ExternalWeightsUploadStartResult(response.upload_id, urls, response.expires)


def _url(where: str | api.ExternalWeightsUploadURL) -> UploadURL:
    return UploadURL(where) if isinstance(where, str) else UploadURL(where.url, where.headers or {})


async def put(url: UploadURL, path: Path, came: Came) -> None:
    """Sends a file in a thread, which ends when this is cancelled. Raises what `UploadURL.upload`
    does.

    `came` is called on the event loop's thread.
    """
    loop, stop = asyncio.get_running_loop(), threading.Event()

    def tell(sent: int) -> None:
        loop.call_soon_threadsafe(came, sent)

    try:
        await in_thread(_put, url, path, tell, stop)
    finally:
        stop.set()


def _put(url: UploadURL, path: Path, came: Came, stop: threading.Event) -> None:
    tries = Retrying(
        stop=stop_after_attempt(_TRIES),
        wait=_PAUSES,
        retry=retry_if_exception(lambda error: not stop.is_set() and _may_pass(error)),
        reraise=True,
    )
    tries(_put_once, url, path, came, stop)


def _may_pass(error: BaseException) -> bool:
    """Returns whether it may go well the next time: a file that is sent again takes the place of
    the one before.
    """
    if isinstance(error, APIStatusError):
        return error.status_code in _PASSING or error.status_code >= 500
    return isinstance(error, APIConnectionError)


def _put_once(url: UploadURL, path: Path, came: Came, stop: threading.Event) -> None:
    # stores take no chunked bodies
    headers = {**url.headers, "Content-Length": str(path.stat().st_size)}
    token = _uploading.set(True)
    try:
        response = httpx.put(
            url.url, content=_pieces(path, came, stop), headers=headers, timeout=_TIMEOUT
        )
    except httpx.TransportError as error:
        where = httpx.URL(url.url)
        origin = f"{where.scheme}://{where.netloc.decode()}"
        raise connection_error(error, failure_point_of(error), UPLOAD, origin) from error
    finally:
        _uploading.reset(token)
    if not response.is_success:
        raise status_error(response, UPLOAD)


def _pieces(path: Path, came: Came, stop: threading.Event) -> Generator[bytes]:
    sent = 0
    with path.open("rb") as file:
        while (piece := file.read(_PIECE)) and not stop.is_set():
            yield piece
            sent += len(piece)
            came(sent)
