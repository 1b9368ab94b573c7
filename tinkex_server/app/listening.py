"""`listen`: the socket that a server listens on."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from tinkex_server.access.api_keys import ApiKeyRequired


def listen(host: str, port: int, *, guarded: bool) -> socket.socket:
    """Returns a socket that listens. A wrong address raises here, in the caller's thread.

    Raises `ApiKeyRequired` for an address that other machines can reach, unless the server is
    `guarded` by a key.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio disables Nagle's algorithm only if the protocol is given; otherwise each small answer
    # would wait 40 ms for the client's acknowledgement
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        if not guarded:
            _check_private(listener)
        listener.listen(2048)
    except BaseException:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket) -> str:
    """Returns the URL of the address that a socket is bound to."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_private(listener: socket.socket) -> bool:
    """Returns whether only this machine can reach the address that a socket is bound to."""
    return ip_address(listener.getsockname()[0]).is_loopback


def _check_private(listener: socket.socket) -> None:
    """Raises `ApiKeyRequired` if other machines can reach the address that was bound."""
    if not is_private(listener):
        address = listener.getsockname()[0]
        raise ApiKeyRequired(
            f"{address} can be reached from other machines, and without an API key anyone there "
            "could use the server and read everything it keeps: give it an API key, or let it "
            "listen on 127.0.0.1"
        )
