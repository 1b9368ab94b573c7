"""Connections are used again only where that is safe, over real sockets."""

from __future__ import annotations

import asyncio

import pytest

from tinkex.transport.connection import ConnectionPool
from tinkex.transport.port import ExchangeFailed, Message


async def _connections_for_two_requests(status: int, *, body_apart: bool) -> int:
    opened, closed = 0, asyncio.Semaphore(0)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        while await reader.readline():
            while await reader.readline() != b"\r\n":
                pass
            writer.write(b"HTTP/1.1 %d Words\r\ncontent-length: 5\r\n\r\n" % status)
            if body_apart:
                await writer.drain()
                await asyncio.sleep(0.01)  # so that it comes in a packet of its own
            writer.write(b"words")
        writer.close()
        closed.release()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    connections = ConnectionPool()
    async with server:
        for _ in range(2):
            message = Message("GET", f"http://{host}:{port}/", {}, b"", 5.0)
            assert (await connections.exchange(message)).content == b"words"
        await connections.aclose()
        for _ in range(opened):
            await asyncio.wait_for(closed.acquire(), 5)
    return opened


@pytest.mark.rule(11)
@pytest.mark.parametrize("body_apart", [False, True], ids=["body with the headers", "body apart"])
@pytest.mark.parametrize(("status", "opened"), [(200, 1), (404, 1), (500, 2)])
def test_a_connection_is_not_used_after_a_fault_of_the_server(
    status: int, opened: int, body_apart: bool
) -> None:
    """Common servers close it then without saying so, and the outcome of a training step sent on it
    would be unknown.
    """
    assert asyncio.run(_connections_for_two_requests(status, body_apart=body_apart)) == opened


def test_an_answer_that_ends_within_its_headers_is_told_in_words() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-ty")
        writer.close()

    async def exchange() -> None:
        async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            connections = ConnectionPool()
            try:
                await connections.exchange(Message("GET", f"http://{host}:{port}/", {}, b"", 5.0))
            finally:
                await connections.aclose()

    with pytest.raises(ExchangeFailed) as failed:
        asyncio.run(exchange())
    assert failed.value.text == "its answer ends within the headers"
