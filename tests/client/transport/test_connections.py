"""Which connections are used again, over real sockets."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tinkex.transport.connection import ConnectionPool
from tinkex.transport.exchange_stage import ExchangeStage, current_stage


async def _connections_for_two_requests(status: int, *, body_apart: bool) -> int:
    opened = 0

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

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, ConnectionPool() as connections:
        for _ in range(2):
            current_stage.set(ExchangeStage())
            response = await connections.handle_async_request(
                httpx.Request("GET", f"http://{host}:{port}/")
            )
            assert await response.aread() == b"words"
            await response.aclose()
    return opened


@pytest.mark.rule(11)
@pytest.mark.parametrize("body_apart", [False, True], ids=["body with the headers", "body apart"])
@pytest.mark.parametrize(("status", "opened"), [(200, 1), (404, 1), (500, 2)])
def test_a_connection_is_not_used_after_a_fault_of_the_server(
    status: int, opened: int, body_apart: bool
) -> None:
    """Common servers close it then without saying so, and a training step sent on it would end in
    doubt.
    """
    assert asyncio.run(_connections_for_two_requests(status, body_apart=body_apart)) == opened
