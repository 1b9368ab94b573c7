"""Certificates of an authority of the test's own, and a proxy on a real socket that leads all names
to this machine.
"""

from __future__ import annotations

import select
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pytest
from attrs import define, field

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


@define
class Authority:
    """Issues certificates with the program openssl."""

    folder: Path

    def __attrs_post_init__(self) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("there is no openssl to make certificates with")
        self._run(
            "req",
            "-x509",
            *_KEY,
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
            "-days",
            "2",
            "-subj",
            "/CN=test authority",
        )

    @property
    def file(self) -> Path:
        return self.folder / "ca.pem"

    def subject_hash(self) -> str:
        """Returns the file name of its certificate in a certificate folder."""
        return self._run("x509", "-in", "ca.pem", "-noout", "-subject_hash").strip()

    def server_context(
        self, name: str, *, days: int = 2, self_signed: bool = False
    ) -> ssl.SSLContext:
        """Returns the TLS settings of a server whose certificate is for `name`."""
        san = f"subjectAltName=DNS:{name}"
        if self_signed:
            self._run(
                "req",
                "-x509",
                *_KEY,
                "-keyout",
                "s.key",
                "-out",
                "s.pem",
                "-days",
                "2",
                "-subj",
                "/CN=s",
                "-addext",
                san,
            )
        else:
            self._run(
                "req",
                "-new",
                *_KEY,
                "-keyout",
                "s.key",
                "-out",
                "s.csr",
                "-subj",
                "/CN=s",
                "-addext",
                san,
            )
            issuer = [
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-set_serial",
                "7",
                "-copy_extensions",
                "copy",
            ]
            self._run("x509", "-req", "-in", "s.csr", *issuer, "-days", str(days), "-out", "s.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "s.pem", self.folder / "s.key")
        return context

    def _run(self, *arguments: str) -> str:
        return subprocess.run(
            ["openssl", *arguments], cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout


@define
class SmallProxy:
    """A proxy that records its requests and can refuse them."""

    url: str = ""
    asked: list[str] = field(factory=list[str])
    """The first line of each request."""
    credentials: list[str] = field(factory=list[str])
    refusal: bytes = b""
    """A status and its words: `407 Proxy Authentication Required`."""


@contextmanager
def small_proxy() -> Iterator[SmallProxy]:
    """Serves a proxy in threads that tunnels, and passes on the first request of each connection,
    whatever the host's name, to this machine.
    """
    proxy = SmallProxy()

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            head = list(iter(lambda: self.rfile.readline().decode().strip(), ""))
            if not head:
                return
            proxy.asked.append(head[0])
            proxy.credentials += [
                line for line in head if line.lower().startswith("proxy-authorization")
            ]
            if proxy.refusal:
                self.wfile.write(b"HTTP/1.1 " + proxy.refusal + b"\r\nContent-Length: 0\r\n\r\n")
                return
            with suppress(ConnectionError):
                self.pass_on(head)

        def pass_on(self, head: list[str]) -> None:
            method, target, _ = head[0].split(" ")
            place = target if method == "CONNECT" else target.split("/")[2]
            with socket.create_connection(("127.0.0.1", int(place.rpartition(":")[2]))) as there:
                if method == "CONNECT":
                    self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    path = "/" + target.split("/", 3)[3]
                    there.sendall(
                        "\r\n".join([f"{method} {path} HTTP/1.1", *head[1:], "", ""]).encode()
                        + self.rfile.read(_length(head))
                    )
                others = {self.connection: there, there: self.connection}
                while all(
                    _pump(end, others[end]) for end in select.select(list(others), [], [])[0]
                ):
                    pass

    class Server(ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield proxy
        finally:  # or the thread keeps pytest from ending
            server.shutdown()
            thread.join()


def _length(head: list[str]) -> int:
    """Returns the length of a request's body, from the lines of its head."""
    told = [line for line in head if line.lower().startswith("content-length:")]
    return int(told[0].partition(":")[2]) if told else 0


def _pump(source: socket.socket, sink: socket.socket) -> bool:
    """Passes on what there is; returns whether there may be more."""
    piece = source.recv(1 << 16)
    sink.sendall(piece)
    return bool(piece)
