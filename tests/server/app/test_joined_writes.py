"""An answer is sent in one piece, and nothing that was written is held back for long or lost."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

from tinkex.local import Server
from tinkex_server.app.joined_writes import JoinedWrites


class Transport:
    """Notes what is sent, and when the connection is closed."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.peer_left = False

    def is_closing(self) -> bool:
        return self.peer_left

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        self.sent.append(b"".join(parts))

    def close(self) -> None:
        self.sent.append(b"(closed)")


def test_writes_are_joined_in_pairs_and_the_last_one_waits_for_one_iteration() -> None:
    async def write() -> list[list[bytes]]:
        transport = Transport()
        joined, seen = JoinedWrites(transport), list[list[bytes]]()
        for pieces in ([b"head", b"body"], [b"head alone"], [b"a", b"b", b"c"]):
            for piece in pieces:
                joined.write(piece)
            await asyncio.sleep(0)
            seen.append(transport.sent)
            transport.sent = []
        joined.write(b"the last words")
        joined.close()
        await asyncio.sleep(0)
        return [*seen, transport.sent]

    assert asyncio.run(write()) == [
        [b"headbody"],
        [b"head alone"],
        [b"ab", b"c"],
        [b"the last words", b"(closed)"],
    ]


def test_nothing_is_written_after_the_peer_has_closed_the_connection() -> None:
    async def write() -> list[bytes]:
        transport = Transport()
        joined = JoinedWrites(transport)
        joined.write(b"head")
        transport.peer_left = True
        await asyncio.sleep(0)
        return transport.sent

    assert asyncio.run(write()) == []


def test_the_head_of_an_answer_comes_in_one_piece_with_its_body(server: Server) -> None:
    address = urlsplit(server.base_url)
    assert address.hostname
    assert address.port
    pieces: list[bytes] = []
    with socket.create_connection((address.hostname, address.port)) as connection:
        for _ in range(20):
            connection.sendall(
                b"GET /api/v1/healthz HTTP/1.1\r\nHost: %s\r\n\r\n" % address.netloc.encode()
            )
            pieces.append(connection.recv(1 << 16))
    for piece in pieces:
        head, _, body = piece.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        assert len(body) == length > 0
