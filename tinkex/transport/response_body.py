"""Bodies of answers, read and expanded piece by piece: none is larger than its bound, and none
stalls the event loop.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator

import httpx
from attrs import frozen

from tinkex.errors import AnswerTooLargeError, UnreadableAnswerError

ENCODINGS = "gzip, deflate, zstd"
"""All that `expanded` can read, as Accept-Encoding says it."""
ERROR_BYTES = 1 << 20
"""Of the body of a refusal no more is read: its status counts."""
ANSWER_BYTES = 64 << 20
"""The bound of what is asked for other than results, where `HttpLimits.max_answer_bytes` is not
lower.
"""
LINE_BYTES = 16 << 20
"""The bound of one line of a stream."""
_PIECE = 1 << 20  # bytes; expanding so many takes about a millisecond
_INPUT = 1 << 16
_STEPS = 64
"""Pieces of input that may come to nothing before the event loop has its turn."""
_RESULTS = frozenset({"retrieve_future", "retrieve_futures"})


@frozen
class SizeBound:
    """How large a body may be, before and after it is expanded."""

    bytes: int
    setting: str
    """What to raise where an honest answer is larger."""


def bound_of(operation: str, most: int) -> SizeBound:
    """The bound of an answer to `operation`, of which the user allows `most` bytes."""
    if operation in _RESULTS or most <= ANSWER_BYTES:
        return SizeBound(
            most, "Raise Config.http_limits.max_answer_bytes if it is an honest answer."
        )
    return SizeBound(ANSWER_BYTES, "No honest answer to this call is so large.")


async def gathered(pieces: AsyncIterable[bytes], bound: SizeBound) -> bytes:
    """All pieces of a body. Raises `AnswerTooLargeError` with the first byte over the bound."""
    found, size = list[bytes](), 0
    async for piece in pieces:
        size += len(piece)
        if size > bound.bytes:
            raise _too_large(bound)
        found.append(piece)
    return found[0] if len(found) == 1 else b"".join(found)


async def lines(response: httpx.Response, line_bytes: int, bound: SizeBound) -> AsyncGenerator[str]:
    """The lines of a body as they come, none longer than `line_bytes`.

    Raises `AnswerTooLargeError` for one that is, or when all together are over the bound,
    `UnreadableAnswerError` for one that is no text.
    """
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity" and not response.is_stream_consumed:
        raise unreadable(f"it is in the encoding {encoding!r}, which was not asked for")
    left, size = bytearray(), 0
    pieces = response.aiter_bytes() if response.is_stream_consumed else response.aiter_raw()
    async for piece in pieces:
        size += len(piece)
        if size > bound.bytes:
            raise _too_large(bound)
        *whole, rest = piece.split(b"\n")
        for line in whole:
            left += line
            if len(left) > line_bytes:
                break
            yield _text(left).removesuffix("\r")
            left.clear()
        else:
            left += rest
        if len(left) > line_bytes:
            raise _too_large(SizeBound(line_bytes, "No honest line of a stream is so long."))
    if left:
        yield _text(left)


def _text(line: bytearray) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise unreadable(
            f"a line of the stream is no UTF-8: {error.reason} at byte {error.start}"
        ) from None


async def beginning(pieces: AsyncIterable[bytes]) -> bytes:
    """The first `ERROR_BYTES` of a body."""
    found = bytearray()
    async for piece in pieces:
        found += piece[: ERROR_BYTES - len(found)]
        if len(found) >= ERROR_BYTES:
            break
    return bytes(found)


async def expanded(raw: bytes, encoding: str) -> AsyncIterator[bytes]:
    """The pieces of a body that came in one of `ENCODINGS`; the event loop has its turn between
    them.

    Raises `UnreadableAnswerError` where it is not what its header says.
    """
    encoding = encoding.strip().lower()
    if encoding == "identity" or not raw:
        yield raw
        return
    if encoding not in _EXPAND:
        raise unreadable(f"it is in the encoding {encoding!r}, which was not asked for")
    steps, made = 0, 0
    try:
        for piece in _EXPAND[encoding](raw):
            yield piece
            steps, made = steps + 1, made + len(piece)
            if made >= _PIECE or steps >= _STEPS:
                steps = made = 0
                await asyncio.sleep(0)
    except (zlib.error, _NotExpandable) as error:
        raise unreadable(f"it says that it is {encoding}, and is not: {error}") from error


def unreadable(why: str, operation: str | None = None) -> UnreadableAnswerError:
    return UnreadableAnswerError(
        f"the server's answer cannot be read: {why}",
        operation=operation,
        advice=(
            "The server, or something on the way to it, damages answers; the same call may work "
            "later."
        ),
    )


class _NotExpandable(Exception):
    """It breaks off, goes on after its end, or is no zstd."""


def without_encoding(headers: httpx.Headers) -> httpx.Headers:
    """The headers of a body that has been expanded."""
    kept = httpx.Headers(headers)
    for name in ("content-encoding", "content-length"):
        kept.pop(name, None)
    return kept


async def read_whole(response: httpx.Response, bound: SizeBound) -> httpx.Response:
    """The answer with its body read and expanded; of a refusal the beginning, or nothing where that
    cannot be read.

    Raises `AnswerTooLargeError`, `UnreadableAnswerError`, and what reading raises. The answer given
    is closed.
    """
    if response.is_stream_consumed:  # by the connection
        if response.is_success and len(response.content) > bound.bytes:
            raise _too_large(bound)
        return response
    try:
        encoding = response.headers.get("content-encoding", "")
        if response.is_success:
            declared = response.headers.get("content-length", "")
            if declared.isdecimal() and int(declared) > bound.bytes:
                raise _too_large(bound)
            raw = await gathered(response.aiter_raw(), bound)
            content = await gathered(expanded(raw, encoding), bound) if encoding else raw
        else:
            content = await _of_refusal(await beginning(response.aiter_raw()), encoding)
    finally:
        await response.aclose()
    return httpx.Response(
        response.status_code,
        headers=without_encoding(response.headers),
        content=content,
        request=response.request,
    )


async def _of_refusal(raw: bytes, encoding: str) -> bytes:
    if not encoding:
        return raw
    try:
        return await beginning(expanded(raw, encoding))
    except UnreadableAnswerError:
        return b""


def _too_large(bound: SizeBound) -> AnswerTooLargeError:
    return AnswerTooLargeError(
        f"the server's answer is over {bound.bytes:,} bytes, the bound of this call, as sent or "
        "when expanded; the rest was not read",
        bound=bound.bytes,
        advice=bound.setting,
    )


def _inflated(raw: bytes, wbits: int) -> Iterator[bytes]:
    view, inflating = memoryview(raw), zlib.decompressobj(wbits)
    for at in range(0, len(view), _INPUT):
        waiting = view[at : at + _INPUT]
        while waiting and not inflating.eof:
            yield inflating.decompress(waiting, _PIECE)
            waiting = inflating.unconsumed_tail
        if inflating.eof:
            _check_end(len(view) - min(at + _INPUT, len(view)) + len(inflating.unused_data))
            return
    while not inflating.eof and (piece := inflating.decompress(b"", _PIECE)):
        yield piece
    if not inflating.eof:
        raise _NotExpandable("it breaks off")


def _check_end(left: int) -> None:
    if left:
        raise _NotExpandable(f"{left} bytes follow its end")


def _gunzipped(raw: bytes) -> Iterator[bytes]:
    return _inflated(raw, zlib.MAX_WBITS | 16)


def _deflated(raw: bytes) -> Iterator[bytes]:
    """With zlib's header, as the standard wants it, or without, as some send it."""
    has_header = len(raw) > 1 and raw[0] & 15 == 8 and int.from_bytes(raw[:2]) % 31 == 0
    return _inflated(raw, zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)


def _unzstd(raw: bytes) -> Iterator[bytes]:
    """By small pieces of input, since four bytes of zstd may stand for 128 KiB: a large one only
    while little comes of them.
    """
    import zstandard  # here, since few servers send it

    view, at, step = memoryview(raw), 0, _ZSTD_LEAST
    expanding = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
    try:
        while at < len(view) and not expanding.eof:
            piece = expanding.decompress(view[at : at + step])
            at += step
            step = _ZSTD_LEAST if len(piece) > _PIECE else min(_ZSTD_MOST, step * 2)
            yield piece
    except zstandard.ZstdError as error:
        raise _NotExpandable(str(error)) from error
    if not expanding.eof:
        raise _NotExpandable("it breaks off")
    _check_end(max(0, len(view) - at) + len(expanding.unused_data))


_ZSTD_LEAST = 64  # bytes, which stand for 2 MiB at most
_ZSTD_MOST = 1024  # bytes, which stand for 32 MiB at most
_WINDOW = 128 << 20  # bytes
_EXPAND: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "gzip": _gunzipped,
    "x-gzip": _gunzipped,
    "deflate": _deflated,
    "zstd": _unzstd,
}
