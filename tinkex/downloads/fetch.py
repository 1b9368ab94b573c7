"""Fetches a file piece by piece to the disk, and resumes it where it broke off."""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import anyio
from attrs import define

from tinkex import events
from tinkex.downloads.partial_file import PartialFile
from tinkex.downloads.sources import DOWNLOAD, Source
from tinkex.errors import APIStatusError, APITimeoutError, CheckpointDownloadError, TinkexError
from tinkex.threads import in_thread
from tinkex.transport.backoff import RetryBudget
from tinkex.transport.port import Answer, ExchangeFailed
from tinkex.transport.response_body import raw_pieces
from tinkex.transport.transport import Transport
from tinkex.waiting.wait import RequestState, Wait, WaitBound

logger = logging.getLogger("tinkex")

_PIECE = 1 << 20  # bytes
_MIN_PROGRESS = 16 << 10
"""Bytes that have to arrive within `Config.timeout`: a slower server counts as one that hangs."""
_URL_EXPIRED = frozenset({400, 401, 403, 404, 410})
"""The statuses with which object stores answer for a signed URL that has expired."""
_RANGE_NOT_SATISFIABLE = 416


async def fetch(
    transport: Transport, source: Source, part: PartialFile, on_progress: Callable[[], None]
) -> None:
    """Fetches all of `part` from `source`, and calls `on_progress` after each piece.

    Raises:
        APIConnectionError, APIStatusError: as many attempts as `Config.retry` allows brought no
            more bytes.
        CheckpointDownloadError: the file does not match its digest, even after a second download.
        OSError: the file cannot be written.
    """
    limits = transport.config.http_limits
    bound = WaitBound(limits.max_download_seconds, "Config.http_limits.max_download_seconds")
    for _ in range(2):
        with transport.waits.create(RequestState(DOWNLOAD), part.path.name, bound) as wait:
            await _fetch_whole(transport, source, part, on_progress, wait)
        if await in_thread(_matches_digest, part):
            return
        part.start_over()
    raise CheckpointDownloadError(
        f"{part.path.name} does not match its digest, after two downloads",
        advice="Check whether a proxy between here and the server alters files.",
    )


async def _fetch_whole(
    transport: Transport,
    source: Source,
    part: PartialFile,
    on_progress: Callable[[], None],
    wait: Wait,
) -> None:
    clock, retry_budget, new_url = transport.clock, RetryBudget(transport.config.retry), False
    while True:
        sent_at, before = clock.now(), part.size
        try:
            async with source.open(part.range_headers(), new_url=new_url) as response:
                await _BodyWriter(transport, response, part, on_progress, wait).run()
            return
        except TinkexError as error:
            too_slow = isinstance(error, APITimeoutError) and part.size - before < _MIN_PROGRESS
            if part.size > before and not too_slow:
                retry_budget.reset()
                new_url = False
            if not new_url and _new_url_may_help(error, part):
                new_url = True
                continue
            if not retry_budget.allows_retry(error, sent_at, clock.now()):
                raise
            pause = retry_budget.pause(error, clock.random())
            logger.warning(
                "%s: %s, at byte %d; retrying in %.1f s",
                part.path.name,
                error.message,
                part.size,
                pause,
            )
            events.emit(
                events.Retry,
                operation=DOWNLOAD,
                attempt=retry_budget.attempts,
                pause=pause,
                reason=error.message,
            )
        await clock.sleep(pause)


def _new_url_may_help(error: TinkexError, part: PartialFile) -> bool:
    """Returns whether another attempt with a new URL may help. Drops what was fetched where the
    server has no bytes beyond it.
    """
    if not isinstance(error, APIStatusError) or error.operation != DOWNLOAD:
        return False
    if error.status_code == _RANGE_NOT_SATISFIABLE and part.size:
        part.start_over()
        return True
    return error.status_code in _URL_EXPIRED


@define(eq=False)
class _BodyWriter:
    """The writer of one response's body to the disk."""

    transport: Transport
    response: Answer
    part: PartialFile
    on_progress: Callable[[], None]
    wait: Wait

    async def run(self) -> None:
        part = self.part
        part.begin(self.response.status_code, self.response.headers)
        most = await in_thread(self._max_bytes)
        self._note_progress()
        async with await anyio.open_file(part.path, "ab" if part.size else "wb") as file:
            self.on_progress()
            async with aclosing(_pieces(self.response, self.transport)) as pieces:
                async for piece in pieces:
                    if part.size + len(piece) > most:
                        raise CheckpointDownloadError(
                            f"{part.path.name} is larger than the accepted {most:,} bytes",
                            advice=(
                                "The server does not tell the file's size. Free disk space, or "
                                "raise Config.http_limits.max_download_bytes."
                            ),
                        )
                    await file.write(piece)
                    part.size += len(piece)
                    self._note_progress()
                    self.on_progress()
        part.end()

    def _max_bytes(self) -> int:
        """Returns the largest size in bytes that the file may have. Raises `OSError` where the disk
        has too little room for it.
        """
        part, limit = self.part, self.transport.config.http_limits.max_download_bytes
        free = shutil.disk_usage(part.path.parent).free
        if part.total is None:
            return min(limit, part.size + free // 2)
        if part.total > limit:
            raise CheckpointDownloadError(
                f"{part.path.name} has {part.total:,} bytes, but at most {limit:,} are allowed",
                advice="Raise Config.http_limits.max_download_bytes.",
            )
        if part.total - part.size > free:
            raise OSError(
                errno.ENOSPC,
                f"{part.total - part.size:,} bytes are needed, but only {free:,} are free",
            )
        return part.total

    def _note_progress(self) -> None:
        total = "" if self.part.total is None else f" of {self.part.total:,}"
        self.wait.set_owner("network", f"{self.part.size:,}{total} bytes have arrived")


async def _pieces(response: Answer, transport: Transport) -> AsyncGenerator[bytes]:
    """Yields the body in pieces large enough to write. Bytes that arrived before the connection
    broke are yielded too.

    Raises `ExchangeFailed` where less than `_MIN_PROGRESS` arrived within `Config.timeout`.
    """
    gathered = bytearray()
    clock, window = transport.clock, transport.config.timeout
    since, size = clock.now(), 0
    try:
        async for piece in raw_pieces(response):
            gathered += piece
            size += len(piece)
            if size >= _MIN_PROGRESS:
                since, size = clock.now(), 0
            elif clock.now() - since > window:
                raise ExchangeFailed(
                    f"only {size} bytes arrived within {window:g} s", "answered", late=True
                )
            if len(gathered) >= _PIECE:
                yield bytes(gathered)
                gathered.clear()
    except ExchangeFailed:
        yield bytes(gathered)
        raise
    yield bytes(gathered)


def _matches_digest(part: PartialFile) -> bool:
    if part.digest is None:
        return True
    with part.path.open("rb") as file:
        return hashlib.file_digest(file, part.digest.algorithm).digest() == part.digest.value
