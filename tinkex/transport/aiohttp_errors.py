"""From aiohttp's errors to why a server cannot be reached: its certificate, TLS itself, a proxy. No
I/O here.
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
"""How OpenSSL calls it when what answers is no TLS."""
_TLS_ALERT = r"\x15\x03"
"""How an answer begins, as aiohttp quotes it, of a server that was spoken to without TLS."""


def reason_of(error: BaseException, proxy: Proxy | None, trusted: str) -> Reason | None:
    """Returns the reason for an error of aiohttp's; None where its own words will do.

    Args:
        proxy: the one that the server was asked through.
        trusted: whose certificates are trusted.
    """
    cause = error.__cause__
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _certificate(error.certificate_error, f"{error.host}:{error.port}", trusted)
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return _no_tls(cause)
    if proxy is not None:
        return _proxy(error, proxy)
    if isinstance(error, aiohttp.ClientResponseError) and _TLS_ALERT in error.message:
        return Reason("it speaks TLS, and was spoken to without", "Give its URL as https://…")
    return None


def _proxy(error: BaseException, proxy: Proxy) -> Reason | None:
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return proxy_refused(proxy, error.status, error.message)
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        advice = (
            f"Is the proxy running, and is {proxy.setting} right? Adding the host to NO_PROXY "
            "asks the server directly."
        )
        return Reason(
            f"the proxy {proxy} cannot be reached: {os_error_text(error.os_error)}",
            advice,
            passes=True,
        )
    return None


def _certificate(error: Exception, server: str, trusted: str) -> Reason:
    code: int = getattr(error, "verify_code", 0)
    words: str = getattr(error, "verify_message", "") or str(error)
    what = f"its certificate is not accepted: {words.rstrip('.')}"
    match code:
        case 9 | 10:
            return Reason(
                what,
                f"Whoever runs {server} must renew it; or is this machine's clock wrong?",
                "server",
            )
        case 62 | 63 | 64:
            return Reason(
                what,
                "Give base_url with a name that the certificate has, or let it be issued for "
                "this one.",
            )
        case 18 | 19 | 20 | 21:
            return Reason(
                what,
                f"Trusted is what {trusted} has. If you trust this server, put the certificate of "
                "who issued its own into a file, "
                "and name that: SSL_CERT_FILE=/path/to/ca.pem (REQUESTS_CA_BUNDLE is read, too).",
            )
        case _:
            return Reason(what, f"Trusted is what {trusted} has.")


def _no_tls(error: BaseException | None) -> Reason:
    name = error.reason if isinstance(error, ssl.SSLError) else None
    if name in _NO_TLS:
        return Reason(
            "what answers there speaks no TLS",
            "Is its URL http://…, or is the port another server's?",
        )
    return Reason(
        f"TLS with it fails: {name or error}",
        "Does the server, or a proxy before it, take TLS 1.2 or later?",
        "unknown",
        True,
    )
