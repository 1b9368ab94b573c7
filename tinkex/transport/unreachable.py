"""Reasons for which a server cannot be reached. No I/O here."""

from __future__ import annotations

import errno
import os
import ssl

from attrs import frozen

from tinkex.config.proxies import Proxy
from tinkex.errors import Fault

_NO_TLS = frozenset(
    {
        "WRONG_VERSION_NUMBER",
        "RECORD_LAYER_FAILURE",
        "UNKNOWN_PROTOCOL",
        "PACKET_LENGTH_TOO_LONG",
        "HTTP_REQUEST",
    }
)
"""OpenSSL's reasons for an answer that is not TLS."""


@frozen
class Reason:
    """A reason, and advice for the user."""

    text: str
    advice: str
    fault: Fault = "user"
    retryable: bool = False
    """Whether another attempt may succeed."""


SERVER_SPEAKS_TLS = Reason(
    "the server speaks TLS, and the URL says http://", "Give its URL as https://…"
)


TOO_MANY_FILES = Reason(
    "this process, or this machine, has too many open files",
    "Raise the limit (`ulimit -n`), or have fewer connections: http_limits.max_connections of "
    "Config. Does the program close its service clients?",
    retryable=True,
)


def local_limit(error: OSError) -> Reason | None:
    """Returns the reason for an error that is not the server's: a limit of this machine."""
    return TOO_MANY_FILES if error.errno in (errno.EMFILE, errno.ENFILE) else None


def proxy_refused(proxy: Proxy, status: int, words: str) -> Reason:
    """Returns the reason for a proxy that refuses a request."""
    advice = (
        f"Does it allow this server? Add the host to NO_PROXY, or remove {proxy.setting}, to "
        "connect to the server directly."
    )
    if status == 407:
        advice = (
            f"Give the proxy's user and password: {proxy.setting}=http://user:password@host:port."
        )
    return Reason(
        f"the proxy {proxy} refuses: {status} {words}",
        advice,
        retryable=status >= 500 or status in (408, 429),
    )


def proxy_unreachable(proxy: Proxy, error: OSError) -> Reason:
    """Returns the reason for a proxy to which no connection can be made."""
    advice = (
        f"Is the proxy running, and is {proxy.setting} right? Add the host to NO_PROXY to "
        "connect to the server directly."
    )
    return Reason(
        f"the proxy {proxy} cannot be reached: {os_error_text(error)}", advice, retryable=True
    )


def tls_failed(error: OSError, server: str, trusted: str) -> Reason:
    """Returns the reason for a TLS handshake that failed.

    Args:
        error: the error of the handshake.
        server: the host and port of the peer.
        trusted: a description of the trusted certificates.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate(error, server, trusted)
    words = error.reason if isinstance(error, ssl.SSLError) else None
    if words in _NO_TLS:
        return Reason(
            "the server at this address does not speak TLS",
            "Is its URL http://…, or does the port belong to another server?",
        )
    return Reason(
        f"the TLS handshake failed: {words or error}",
        "Does the server, or a proxy before it, support TLS 1.2 or later?",
        "unknown",
        True,
    )


def _certificate(error: ssl.SSLCertVerificationError, server: str, trusted: str) -> Reason:
    words: str = error.verify_message or str(error)
    what = f"its certificate is not trusted: {words.rstrip('.')}"
    match error.verify_code:
        case 9 | 10:
            return Reason(
                what,
                f"The operator of {server} must renew it; or is this machine's clock wrong?",
                "server",
            )
        case 62 | 63 | 64:
            return Reason(
                what,
                "Give base_url with a host name that the certificate covers, or have a certificate "
                "issued for this name.",
            )
        case 18 | 19 | 20 | 21:
            return Reason(
                what,
                f"Trusted are the certificates of {trusted}. If you trust this server, save its "
                "issuer's certificate to a file, and name that file: "
                "SSL_CERT_FILE=/path/to/ca.pem (or REQUESTS_CA_BUNDLE).",
            )
        case _:
            return Reason(what, f"Trusted are the certificates of {trusted}.")


def os_error_text(error: OSError) -> str:
    """Returns the operating system's text for an error; without one, the library's."""
    if not error.errno:
        return str(error)
    return os.strerror(error.errno) if error.errno > 0 else error.strerror or str(error)
