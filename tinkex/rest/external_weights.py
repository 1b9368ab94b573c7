"""Uploads an adapter's files to the URLs that a server gives, each with one PUT."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Generator, Mapping
from contextvars import ContextVar
from datetime import datetime
from os import PathLike
from pathlib import Path

from attrs import field, frozen
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter
from tinkex_api import models as api

from tinkex.config.secrets import without_queries
from tinkex.errors import APIConnectionError, APIStatusError
from tinkex.threads import call_on_loop, in_thread
from tinkex.transport.failures import connection_error, status_error
from tinkex.transport.port import ExchangeFailed
from tinkex.transport.upload_settings import UploadSettings

_uploading: ContextVar[bool] = ContextVar("uploading", default=False)


def _hide_signature(record: logging.LogRecord) -> bool:
    """Removes the queries of URLs from httpx's own log lines about an upload."""
    if _uploading.get() and isinstance(record.args, tuple):
        import httpx  # which an upload has imported

        record.args = tuple(
            without_queries(str(given)) if isinstance(given, httpx.URL) else given
            for given in record.args
        )
    return True


logging.getLogger("httpx").addFilter(_hide_signature)

UPLOAD = "upload"
"""The operation, in errors, of a PUT that is not one of the contract's."""
_PIECE = 1 << 20  # bytes
_ATTEMPTS = 4
_PAUSES = wait_exponential_jitter(1, 20)  # seconds
_TIMEOUT = 60.0  # seconds for each piece, and for the answer
_RETRYABLE = frozenset({408, 429})

OnSent = Callable[[int], object]
"""A function called with the bytes of the file that were sent; they start again at a retry."""


@frozen
class UploadURL:
    """The signed URL to which one file of an upload is sent. It needs no API key.

    Example:
        from tinkex import LoraConfig

        model = service.get_server_capabilities().supported_models[0].model_name
        start = rest.external_weights_upload_start(model, LoraConfig(rank=8))
        for name, url in start.urls.items():
            print(name, url)  # url.upload(folder / name) sends the file
    """

    url: str = field(repr=lambda url: repr(url.partition("?")[0]))
    """The URL, with its signature."""
    headers: Mapping[str, str] = field(factory=dict[str, str], repr=False)
    """The headers that the PUT must have, by name."""
    _settings: UploadSettings | None = field(
        default=None, repr=False, eq=False, alias="settings", kw_only=True
    )
    """The proxies and certificates of the client; by default those of the environment."""

    @property
    def settings(self) -> UploadSettings:
        """The proxies and certificates for the upload."""
        return self._settings or UploadSettings.of_environment()

    def upload(self, path: str | PathLike[str]) -> None:
        """Sends the file at `path` in pieces, and returns when the server has stored it. Blocks.

        Raises:
            APIConnectionError: the server cannot be reached, and retries did not help.
            APIStatusError: the server refuses the file; 403 where the URL has expired.
            OSError: the file cannot be read.
        """
        _put_with_retries(self, Path(path), lambda sent: None, threading.Event())


@frozen
class ExternalWeightsUploadStartResult:
    """An upload that has begun, as `external_weights_upload_start` returns it.

    Example:
        start = rest.external_weights_upload_start("Qwen/Qwen3-8B", LoraConfig(rank=8))
        print(start.upload_id, start.expires)
        for name, url in start.urls.items():
            print(name, url)  # url.upload(folder / name) sends the file
    """

    upload_id: str
    """The id with which the upload is finished."""
    urls: Mapping[str, UploadURL]
    """The URL of each file, by file name."""
    expires: datetime
    """The time at which the URLs expire."""


@frozen
class ExternalWeightsUploadFinishResult:
    """The checkpoint of a finished upload, as `external_weights_upload_finish` returns it.

    Example:
        start = rest.external_weights_upload_start("Qwen/Qwen3-8B", LoraConfig(rank=4))
        for name, url in start.urls.items():
            url.upload(f"my-adapter/{name}")
        finished = rest.external_weights_upload_finish(start.upload_id)
        sampler = service.create_sampling_client(model_path=finished.tinker_path)
    """

    tinker_path: str
    """The checkpoint's path, `tinker://<training run>/external_weights/<name>`."""


def read_start_response(
    response: api.ExternalWeightsUploadStartResponse, settings: UploadSettings
) -> ExternalWeightsUploadStartResult:
    """Reads a server's response. Its URLs are strings or objects, depending on its release."""
    urls = {name: _url(where, settings) for name, where in response.urls.items()}
    return ExternalWeightsUploadStartResult(response.upload_id, urls, response.expires)


def _url(where: str | api.ExternalWeightsUploadURL, settings: UploadSettings) -> UploadURL:
    if isinstance(where, str):
        return UploadURL(where, settings=settings)
    return UploadURL(where.url, where.headers or {}, settings=settings)


async def upload_file(url: UploadURL, path: Path, on_sent: OnSent) -> None:
    """Sends a file in a thread, which ends when this is cancelled. Raises what `UploadURL.upload`
    does.

    Calls `on_sent` on the event loop's thread.
    """
    loop, stop = asyncio.get_running_loop(), threading.Event()

    def report(sent: int) -> None:
        if not call_on_loop(loop, on_sent, sent):
            stop.set()  # nobody waits for the upload any more

    try:
        await in_thread(_put_with_retries, url, path, report, stop)
    finally:
        stop.set()


def _put_with_retries(url: UploadURL, path: Path, on_sent: OnSent, stop: threading.Event) -> None:
    retrying = Retrying(
        stop=stop_after_attempt(_ATTEMPTS),
        wait=_PAUSES,
        retry=retry_if_exception(lambda error: not stop.is_set() and _may_succeed(error)),
        reraise=True,
    )
    retrying(_put_once, url, path, on_sent, stop)


def _may_succeed(error: BaseException) -> bool:
    """Returns whether a retry may succeed. It is safe, since it replaces the stored file."""
    if isinstance(error, APIStatusError):
        return error.status_code in _RETRYABLE or error.status_code >= 500
    return isinstance(error, APIConnectionError)


def _put_once(url: UploadURL, path: Path, on_sent: OnSent, stop: threading.Event) -> None:
    # here, since httpx is slow to import
    import httpx

    from tinkex.transport.httpx_connections import answer_of, as_failures

    # object stores accept no chunked bodies
    headers = {**url.headers, "Content-Length": str(path.stat().st_size)}
    where, settings = httpx.URL(url.url), url.settings
    token = _uploading.set(True)
    try:
        with as_failures(None), settings.connect(where, _TIMEOUT) as client:
            response = client.put(where, content=_pieces(path, on_sent, stop), headers=headers)
    except ExchangeFailed as failed:
        failed.proxy = settings.proxy_of(where)
        origin = f"{where.scheme}://{where.netloc.decode()}"
        raise connection_error(failed, UPLOAD, origin) from failed
    finally:
        _uploading.reset(token)
    if not response.is_success:
        raise status_error(answer_of(response, url.url), UPLOAD)


def _pieces(path: Path, on_sent: OnSent, stop: threading.Event) -> Generator[bytes]:
    sent = 0
    with path.open("rb") as file:
        while (piece := file.read(_PIECE)) and not stop.is_set():
            yield piece
            sent += len(piece)
            on_sent(sent)
