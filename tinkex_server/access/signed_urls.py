"""Signed URLs: each lets whoever holds it fetch one thing, without a key and for a while."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from urllib.parse import quote, urlencode

from attrs import frozen

from tinkex_server.access.secret import signature
from tinkex_server.errors import Refused

LIFETIME = 3600
"""Seconds from when a URL is asked for."""
_PURPOSE = "url"
_TIME = re.compile(r"[0-9]{1,12}")


@frozen
class Signer:
    """Signs paths with a time until when they hold, in seconds since 1970."""

    secret: bytes

    def query(self, path: str, expires: int) -> str:
        """What makes a URL of this path a signed one."""
        return urlencode({"expires": expires, "signature": self._signature(path, str(expires))})

    def check(self, path: str, query: Mapping[str, str], now: float) -> None:
        """Raises `Refused` (403) for a signature that is not for this path, or no longer."""
        expires, given = query.get("expires", ""), query.get("signature", "")
        if not hmac.compare_digest(given.encode(), self._signature(path, expires).encode()):
            raise Refused(403, "the URL's signature is wrong; ask for a new URL")
        if not _TIME.fullmatch(expires):
            raise Refused(
                403, "the URL does not say in seconds until when it holds; ask for a new one"
            )
        if int(expires) <= now:
            raise Refused(403, "the URL has expired; ask for a new one")

    def _signature(self, path: str, expires: str) -> str:
        return signature(self.secret, _PURPOSE, f"{path}\n{expires}".encode()).hex()


def signed_url(signer: Signer, origin: str, path: str, expires: int) -> str:
    return f"{origin}{quote(path, safe='/:')}?{signer.query(path, expires)}"
