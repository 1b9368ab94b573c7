"""Fetching a file: piece by piece to the disk, from where it broke off, until it is whole."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing

import anyio
import httpx

from tinkex import events
from tinkex.errors import APIStatusError, CheckpointDownloadError, TinkexError
from tinkex.rest.parts import Part
from tinkex.transport.backoff import Patience
from tinkex.transport.http import Transport

logger = logging.getLogger("tinkex")

DOWNLOAD = "download"
"""The operation, in errors and events, of what no route of the contract is asked for."""
_PIECE = 1 << 20  # bytes
_NO_LONGER_GOOD = frozenset({400, 401, 403, 404, 410})
"""How the stores of the world answer to a signed URL whose time is over."""
_RANGE_NOT_SATISFIABLE = 416

Open = Callable[[Mapping[str, str], bool], AbstractAsyncContextManager[httpx.Response]]
"""Takes headers, and whether the URL is to be asked for anew; gives an answer with a 2xx status, its body unread."""


async def fetch(transport: Transport, open: Open, part: Part, came: Callable[[], None]) -> None:
    """Fetches all of `part`, and calls `came` after each piece.

    Raises:
        APIConnectionError, APIStatusError: tries without a byte between them did not help, as many as `Config.retry` allows.
        CheckpointDownloadError: it is not what its digest says, also when fetched anew.
        OSError: it cannot be written.
    """
    for _ in range(2):
        await _fetch_whole(transport, open, part, came)
        if await asyncio.to_thread(_is_as_promised, part):
            return
        part.start_over()
    raise CheckpointDownloadError(
        f"{part.path.name} is not what its digest says", advice="Is something on the way that changes files?"
    )


async def _fetch_whole(transport: Transport, open: Open, part: Part, came: Callable[[], None]) -> None:
    clock, patience, anew = transport.clock, Patience(transport.config.retry), False
    while True:
        sent_at, before = clock.now(), part.size
        try:
            async with open(part.range_headers(), anew) as response:
                await _receive(response, part, came)
            return
        except TinkexError as error:
            if part.size > before:
                patience.forget()
                anew = False
            if not anew and _may_help_anew(error, part):
                anew = True
                continue
            if not patience.lasts(error, sent_at, clock.now()):
                raise
            pause = patience.pause(error, clock.random())
            logger.warning("%s: %s, at byte %d; again in %.1f s", part.path.name, error.message, part.size, pause)
            events.emit(events.Retry, operation=DOWNLOAD, attempt=patience.attempts, pause=pause, reason=error.message)
        await clock.sleep(pause)


def _may_help_anew(error: TinkexError, part: Part) -> bool:
    """Whether a URL that is signed anew may help, or to begin anew."""
    if not isinstance(error, APIStatusError) or error.operation != DOWNLOAD:
        return False
    if error.status_code == _RANGE_NOT_SATISFIABLE and part.size:
        part.start_over()
        return True
    return error.status_code in _NO_LONGER_GOOD


async def _receive(response: httpx.Response, part: Part, came: Callable[[], None]) -> None:
    part.begin(response.status_code, response.headers)
    async with await anyio.open_file(part.path, "ab" if part.size else "wb") as file:
        came()
        async with aclosing(_pieces(response)) as pieces:
            async for piece in pieces:
                await file.write(piece)
                part.size += len(piece)
                came()
    part.end()


async def _pieces(response: httpx.Response) -> AsyncGenerator[bytes]:
    """The body in pieces that are worth a visit to the disk. What came before it broke off is given, too."""
    gathered = bytearray()
    try:
        async for piece in response.aiter_raw():
            gathered += piece
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
