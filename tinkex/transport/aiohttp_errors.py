"""Explains aiohttp's errors: why a server cannot be reached, from certificates to proxies. No I/O
here.
"""

from __future__ import annotations

import ssl

import aiohttp

from tinkex.config.proxies import Proxy
from tinkex.transport.unreachable import Reason, os_error_text, proxy_refused

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
_TLS_ALERT = r"\x15\x03"
"""The beginning of a TLS server's answer to plain HTTP, as aiohttp quotes it."""


def reason_of(error: BaseException, proxy: Proxy | None, trusted: str) -> Reason | None:
    """Returns the reason for an error of aiohttp; None where its own text is good enough.

    Args:
        proxy: the proxy that the request went through.
        trusted: a description of the trusted certificates.
    """
    cause = error.__cause__
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return certificate_reason(error.certificate_error, f"{error.host}:{error.port}", trusted)
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return handshake_reason(cause)
    if proxy is not None:
        return _proxy(error, proxy)
    if isinstance(error, aiohttp.ClientResponseError) and _TLS_ALERT in error.message:
        return Reason(
            "the server speaks TLS, and the URL says http://", "Give its URL as https://…"
        )
    return None


def _proxy(error: BaseException, proxy: Proxy) -> Reason | None:
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return proxy_refused(proxy, error.status, error.message)
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        advice = (
            f"Is the proxy running, and is {proxy.setting} right? Add the host to NO_PROXY to "
            "connect to the server directly."
        )
        return Reason(
            f"the proxy {proxy} cannot be reached: {os_error_text(error.os_error)}",
            advice,
            retryable=True,
        )
    return None


def certificate_reason(error: Exception, server: str, trusted: str) -> Reason:
    """Returns the reason for a certificate that is not trusted.

    Args:
        error: the error of the handshake.
        server: the host and port of the server.
        trusted: a description of the trusted certificates.
    """
    code: int = getattr(error, "verify_code", 0)
    words: str = getattr(error, "verify_message", "") or str(error)
    what = f"its certificate is not trusted: {words.rstrip('.')}"
    match code:
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


def handshake_reason(error: BaseException | None) -> Reason:
    """Returns the reason for a TLS handshake that failed, other than by the certificate."""
    name = error.reason if isinstance(error, ssl.SSLError) else None
    if name in _NO_TLS:
        return Reason(
            "the server at this address does not speak TLS",
            "Is its URL http://…, or does the port belong to another server?",
        )
    return Reason(
        f"the TLS handshake failed: {name or error}",
        "Does the server, or a proxy before it, support TLS 1.2 or later?",
        "unknown",
        True,
    )
