"""Signed URLs: each gives access to one path, without a key, until it expires."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from urllib.parse import quote, urlencode

from attrs import frozen

from tinkex_server.access.secret import signature

LIFETIME = 3600
"""The seconds for which a signed URL holds."""
_PURPOSE = "url"
_EXPIRES = re.compile(r"[0-9]{1,12}")


class BadSignature(ValueError):
    """A signed URL that does not hold. The message says why, and what to do."""


@frozen
class Signer:
    """A signer of paths. Each signature holds until a given time, in seconds since 1970."""

    secret: bytes

    def query(self, path: str, expires: int) -> str:
        """Returns the query that makes a URL of this path a signed one."""
        return urlencode({"expires": expires, "signature": self._signature(path, str(expires))})

    def check(self, path: str, query: Mapping[str, str], now: float) -> None:
        """Raises `BadSignature` unless the query holds a signature of this path that has not
        expired.
        """
        expires, given = query.get("expires", ""), query.get("signature", "")
        if not hmac.compare_digest(given.encode(), self._signature(path, expires).encode()):
            raise BadSignature("the URL's signature is wrong; ask for a new URL")
        if not _EXPIRES.fullmatch(expires):
            raise BadSignature(
                "the URL does not say when it expires, in seconds since 1970; ask for a new URL"
            )
        if int(expires) <= now:
            raise BadSignature("the URL has expired; ask for a new URL")

    def _signature(self, path: str, expires: str) -> str:
        return signature(self.secret, _PURPOSE, f"{path}\n{expires}".encode()).hex()


def signed_url(signer: Signer, origin: str, path: str, expires: int) -> str:
    """Returns the signed URL of a path below `origin`."""
    return f"{origin}{quote(path, safe='/:')}?{signer.query(path, expires)}"
