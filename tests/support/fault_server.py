"""A server on a real socket that does to a request whatever a function says."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

Fault = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
"""Gets the path of a request, and may write an answer, or break off."""


@asynccontextmanager
async def fault_server(fault: Fault, tls: ssl.SSLContext | None = None) -> AsyncGenerator[str]:
    """Yields the base URL of a server that runs `fault` for each connection."""

    connections: set[asyncio.Task[None]] = set()
    stopping = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast(asyncio.Task[None], asyncio.current_task())
        connections.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (
                        int(line[15:])
                        for line in head.split(b"\r\n")
                        if line.lower().startswith(b"content-length:")
                    ),
                    0,
                )
                await reader.readexactly(length)
                await fault(head.split(b" ")[1].decode(), writer)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass  # the client is gone
        except asyncio.CancelledError:
            pass  # the server stops; streams of Python 3.11 cannot take a cancelled connection
        finally:
            if stopping.is_set():
                writer.transport.abort()  # TLS would wait for its last messages
            else:
                writer.close()
            connections.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        stopping.set()
        while connections:
            for task in connections:
                task.cancel()
            await asyncio.wait(connections)
        await asyncio.sleep(0)  # sockets are closed at the loop's next turn


async def answer(writer: asyncio.StreamWriter, body: bytes, status: str = "200 OK") -> None:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: "
        f"{len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()


async def never() -> None:
    await asyncio.sleep(3600)
