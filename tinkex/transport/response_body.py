"""Reads and decompresses bodies of answers piece by piece. None exceeds its bound, and none blocks
the event loop.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator
from functools import lru_cache

from attrs import frozen

from tinkex.errors import AnswerTooLargeError, UnreadableAnswerError
from tinkex.threads import in_thread
from tinkex.transport.port import Answer, Headers

ENCODINGS = "gzip, deflate, zstd"
"""The encodings that `decompress` reads, as a value of Accept-Encoding."""
ERROR_BYTES = 1 << 20
"""The most bytes read from the body of a refusal, whose status says enough."""
ANSWER_BYTES = 64 << 20
"""The bound of answers other than results, unless `HttpLimits.max_answer_bytes` is lower."""
LINE_BYTES = 16 << 20
"""The most bytes in one line of a stream."""
_PIECE = 1 << 20  # bytes; decompressing so many takes about a millisecond
_INPUT = 1 << 16
_JOINED_AT_ONCE = 4 << 20
"""The most bytes to join on the event loop, which takes a few milliseconds; Python joins more in a
thread without keeping others from running.
"""
_STEPS = 64
"""The most pieces to read without output before the event loop runs other tasks."""
_RESULTS = frozenset({"retrieve_future", "retrieve_futures"})


@frozen
class SizeBound:
    """The most bytes of a body, both before and after decompression."""

    bytes: int
    advice: str
    """Advice for a valid answer that is larger."""


@lru_cache
def bound_of(operation: str, most: int) -> SizeBound:
    """Returns the bound of an answer to `operation`. The settings allow at most `most` bytes."""
    if operation in _RESULTS or most <= ANSWER_BYTES:
        return SizeBound(most, "If the answer is valid, raise Config.http_limits.max_answer_bytes.")
    return SizeBound(ANSWER_BYTES, "No valid answer to this call is that large.")


async def read_all(pieces: AsyncIterable[bytes], bound: SizeBound) -> bytes:
    """Reads all pieces of a body. Raises `AnswerTooLargeError` at the first byte over the bound."""
    found, size = list[bytes](), 0
    async for piece in pieces:
        size += len(piece)
        if size > bound.bytes:
            raise _too_large(bound)
        found.append(piece)
    if size > _JOINED_AT_ONCE:
        return await in_thread(b"".join, found)
    return found[0] if len(found) == 1 else b"".join(found)


async def lines(answer: Answer, line_bytes: int, bound: SizeBound) -> AsyncGenerator[str]:
    """Yields the lines of a body as they arrive.

    Raises:
        AnswerTooLargeError: a line has over `line_bytes` bytes, or the body exceeds its bound.
        UnreadableAnswerError: a line is not UTF-8.
    """
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise unreadable_answer(f"its encoding is {encoding!r}, which the client did not accept")
    left, size = bytearray(), 0
    async for piece in raw_pieces(answer):
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
            raise _too_large(SizeBound(line_bytes, "No valid line of a stream is that long."))
    if left:
        yield _text(left)


def _text(line: bytearray) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise unreadable_answer(
            f"a line of the stream is not UTF-8: {error.reason} at byte {error.start}"
        ) from None


async def read_beginning(pieces: AsyncIterable[bytes]) -> bytes:
    """Reads the first `ERROR_BYTES` of a body."""
    found = bytearray()
    async for piece in pieces:
        found += piece[: ERROR_BYTES - len(found)]
        if len(found) >= ERROR_BYTES:
            break
    return bytes(found)


async def decompress(raw: bytes, encoding: str) -> AsyncIterator[bytes]:
    """Yields the decompressed pieces of a body in one of `ENCODINGS`. Other tasks run between them.

    Raises `UnreadableAnswerError` where the body does not match its Content-Encoding.
    """
    encoding = encoding.strip().lower()
    if encoding == "identity" or not raw:
        yield raw
        return
    if encoding not in _DECOMPRESS:
        raise unreadable_answer(f"its encoding is {encoding!r}, which the client did not accept")
    steps, made = 0, 0
    try:
        for piece in _DECOMPRESS[encoding](raw):
            yield piece
            steps, made = steps + 1, made + len(piece)
            if made >= _PIECE or steps >= _STEPS:
                steps = made = 0
                await asyncio.sleep(0)
    except (zlib.error, _DamagedBody) as error:
        raise unreadable_answer(f"its Content-Encoding is {encoding}, but {error}") from error


def unreadable_answer(why: str, operation: str | None = None) -> UnreadableAnswerError:
    return UnreadableAnswerError(
        f"the server's answer cannot be read: {why}",
        operation=operation,
        advice=("The server, or a proxy before it, damages answers; the same call may work later."),
    )


class _DamagedBody(Exception):
    """The error for a compressed body that is damaged."""


def without_encoding(headers: Headers) -> Headers:
    """Returns the headers without those that describe the compressed body."""
    return Headers(
        [
            (name, value)
            for name, value in headers.items()
            if name not in ("content-encoding", "content-length")
        ]
    )


async def raw_pieces(answer: Answer) -> AsyncIterator[bytes]:
    """Yields the pieces of a body as it was sent. Raises `ExchangeFailed` where they break off."""
    if answer.body is None:
        yield answer.content
        return
    async for piece in answer.body.pieces():
        yield piece


async def read_whole(answer: Answer, bound: SizeBound) -> None:
    """Reads and decompresses the body of an answer into its `content`, and closes it.

    Of a refusal only the beginning is read; a body that cannot be read counts as empty there.

    Raises:
        AnswerTooLargeError: the body exceeds its bound.
        UnreadableAnswerError: the body does not match its Content-Encoding.
        ExchangeFailed: the connection broke.
    """
    encoding = answer.headers.get("content-encoding", "")
    if answer.body is None and not encoding:  # the connection has read it
        if answer.is_success and len(answer.content) > bound.bytes:
            raise _too_large(bound)
        return
    try:
        if answer.is_success:
            declared = answer.headers.get("content-length", "")
            if declared.isdecimal() and int(declared) > bound.bytes:
                raise _too_large(bound)
            raw = await read_all(raw_pieces(answer), bound)
            content = await read_all(decompress(raw, encoding), bound) if encoding else raw
        else:
            content = await _decode_refusal(await read_beginning(raw_pieces(answer)), encoding)
    finally:
        await answer.aclose()
    answer.content, answer.body = content, None
    answer.headers = without_encoding(answer.headers)


async def _decode_refusal(raw: bytes, encoding: str) -> bytes:
    if not encoding:
        return raw
    try:
        return await read_beginning(decompress(raw, encoding))
    except UnreadableAnswerError:
        return b""


def _too_large(bound: SizeBound) -> AnswerTooLargeError:
    return AnswerTooLargeError(
        f"the server's answer exceeds {bound.bytes:,} bytes, the bound of this call, compressed or "
        "decompressed; the rest was not read",
        bound=bound.bytes,
        advice=bound.advice,
    )


def _inflate(raw: bytes, wbits: int) -> Iterator[bytes]:
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
        raise _DamagedBody("the body is incomplete")


def _check_end(left: int) -> None:
    if left:
        raise _DamagedBody(f"{left} bytes follow the end of the body")


def _gunzip(raw: bytes) -> Iterator[bytes]:
    return _inflate(raw, zlib.MAX_WBITS | 16)


def _undeflate(raw: bytes) -> Iterator[bytes]:
    """Decompresses `deflate`, with the zlib header of the standard or without, as some send it."""
    has_header = len(raw) > 1 and raw[0] & 15 == 8 and int.from_bytes(raw[:2]) % 31 == 0
    return _inflate(raw, zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)


def _unzstd(raw: bytes) -> Iterator[bytes]:
    """Decompresses zstd piece by piece, since a few bytes may expand to any number."""
    from tinkex.wire.zstd_library import zstd  # here, since few servers use it

    expanding = zstd.ZstdDecompressor(
        options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
    )
    waiting = raw
    try:
        while not expanding.eof:
            piece = expanding.decompress(waiting, _PIECE)
            waiting = b""
            yield piece
            if expanding.needs_input and not expanding.eof:
                raise _DamagedBody("the body is incomplete")
    except zstd.ZstdError as error:
        raise _DamagedBody(str(error)) from error
    _check_end(len(expanding.unused_data))


_WINDOW_LOG = 27  # of 2: 128 MiB, the most that is kept of what was decompressed
_DECOMPRESS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _undeflate,
    "zstd": _unzstd,
}
