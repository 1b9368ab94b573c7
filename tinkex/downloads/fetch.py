"""Fetching a file: piece by piece to the disk, from where it broke off, until it is whole."""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing

import anyio
import httpx
from attrs import define

from tinkex import events
from tinkex.downloads.partial_file import Part
from tinkex.errors import APIStatusError, APITimeoutError, CheckpointDownloadError, TinkexError
from tinkex.threads import in_thread
from tinkex.transport.backoff import RetryBudget
from tinkex.transport.transport import Transport
from tinkex.waiting.wait import RequestState, Wait, WaitBound

logger = logging.getLogger("tinkex")

DOWNLOAD = "download"
"""The operation, in errors and events, of what no route of the contract is asked for."""
_PIECE = 1 << 20  # bytes
_LEAST = 16 << 10
"""Bytes that have to come within `Config.timeout`: what is slower is as good as silent."""
_NO_LONGER_GOOD = frozenset({400, 401, 403, 404, 410})
"""How the stores of the world answer to a signed URL whose time is over."""
_RANGE_NOT_SATISFIABLE = 416

Open = Callable[[Mapping[str, str], bool], AbstractAsyncContextManager[httpx.Response]]
"""Takes headers, and whether the URL is to be asked for anew; gives an answer with a 2xx status,
its body unread.
"""


async def fetch(transport: Transport, open: Open, part: Part, came: Callable[[], None]) -> None:
    """Fetches all of `part`, and calls `came` after each piece.

    Raises:
        APIConnectionError, APIStatusError: tries without a byte between them did not help, as many
            as `Config.retry` allows.
        CheckpointDownloadError: it is not what its digest says, also when fetched anew.
        OSError: it cannot be written.
    """
    limits = transport.config.http_limits
    bound = WaitBound(limits.max_download_seconds, "Config.http_limits.max_download_seconds")
    for _ in range(2):
        with transport.waits.create(RequestState(DOWNLOAD), part.path.name, bound) as wait:
            await _fetch_whole(transport, open, part, came, wait)
        if await in_thread(_is_as_promised, part):
            return
        part.start_over()
    raise CheckpointDownloadError(
        f"{part.path.name} is not what its digest says",
        advice="Is something on the way that changes files?",
    )


async def _fetch_whole(
    transport: Transport, open: Open, part: Part, came: Callable[[], None], wait: Wait
) -> None:
    clock, retry_budget, anew = transport.clock, RetryBudget(transport.config.retry), False
    while True:
        sent_at, before = clock.now(), part.size
        try:
            async with open(part.range_headers(), anew) as response:
                await _Receiving(transport, response, part, came, wait).run()
            return
        except TinkexError as error:
            dripped = isinstance(error, APITimeoutError) and part.size - before < _LEAST
            if part.size > before and not dripped:
                retry_budget.reset()
                anew = False
            if not anew and _may_help_anew(error, part):
                anew = True
                continue
            if not retry_budget.allows_retry(error, sent_at, clock.now()):
                raise
            pause = retry_budget.pause(error, clock.random())
            logger.warning(
                "%s: %s, at byte %d; again in %.1f s",
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


def _may_help_anew(error: TinkexError, part: Part) -> bool:
    """Whether a URL that is signed anew may help, or to begin anew."""
    if not isinstance(error, APIStatusError) or error.operation != DOWNLOAD:
        return False
    if error.status_code == _RANGE_NOT_SATISFIABLE and part.size:
        part.start_over()
        return True
    return error.status_code in _NO_LONGER_GOOD


@define(eq=False)
class _Receiving:
    """One answer's body, on its way to the disk."""

    transport: Transport
    response: httpx.Response
    part: Part
    came: Callable[[], None]
    wait: Wait

    async def run(self) -> None:
        part = self.part
        part.begin(self.response.status_code, self.response.headers)
        most = await in_thread(self._most)
        self._tell()
        async with await anyio.open_file(part.path, "ab" if part.size else "wb") as file:
            self.came()
            async with aclosing(_pieces(self.response, self.transport)) as pieces:
                async for piece in pieces:
                    if part.size + len(piece) > most:
                        raise CheckpointDownloadError(
                            f"{part.path.name} has no end: it is over {most:,} bytes",
                            advice=(
                                "The server should say how long it is; or raise "
                                "Config.http_limits.max_download_bytes."
                            ),
                        )
                    await file.write(piece)
                    part.size += len(piece)
                    self._tell()
                    self.came()
        part.end()

    def _most(self) -> int:
        """Bytes that it may have. Raises `OSError` where the disk has less room than the server
        says that it needs.
        """
        part, limit = self.part, self.transport.config.http_limits.max_download_bytes
        free = shutil.disk_usage(part.path.parent).free
        if part.total is None:
            return min(limit, part.size + free // 2)
        if part.total > limit:
            raise CheckpointDownloadError(
                f"{part.path.name} has {part.total:,} bytes, and {limit:,} are allowed",
                advice="Raise Config.http_limits.max_download_bytes.",
            )
        if part.total - part.size > free:
            raise OSError(
                errno.ENOSPC, f"it needs {part.total - part.size:,} bytes, and {free:,} are free"
            )
        return part.total

    def _tell(self) -> None:
        total = "" if self.part.total is None else f" of {self.part.total:,}"
        self.wait.set_owner("network", f"{self.part.size:,}{total} bytes are here")


async def _pieces(response: httpx.Response, transport: Transport) -> AsyncGenerator[bytes]:
    """The body in pieces that are worth a visit to the disk. What came before it broke off is
    given, too.

    Raises `httpx.ReadTimeout` where less than `_LEAST` came within `Config.timeout`.
    """
    gathered = bytearray()
    clock, window = transport.clock, transport.config.timeout
    since, size = clock.now(), 0
    try:
        async for piece in response.aiter_raw():
            gathered += piece
            size += len(piece)
            if size >= _LEAST:
                since, size = clock.now(), 0
            elif clock.now() - since > window:
                raise httpx.ReadTimeout(f"only {size} bytes came within {window:g} s")
            if len(gathered) >= _PIECE:
                yield bytes(gathered)
                gathered.clear()
    except httpx.TransportError:
        yield bytes(gathered)
        raise
    yield bytes(gathered)


def _is_as_promised(part: Part) -> bool:
    if part.digest is None:
        return True
    with part.path.open("rb") as file:
        return hashlib.file_digest(file, part.digest.algorithm).digest() == part.digest.value
