"""`PartialFile`: the state of a file that is being fetched, and how to resume it. Plain values: no
I/O here.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from attrs import define, frozen

from tinkex.errors import APIConnectionError, CheckpointDownloadError

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_ALGORITHMS = {"sha-512": "sha512", "sha-256": "sha256", "md5": "md5"}
"""hashlib's name of each algorithm, by its name in headers; the best first."""
_DIGESTS = re.compile(r"\s*([\w-]+)=:?([A-Za-z0-9+/]+={0,2}):?\s*")


@frozen
class Digest:
    algorithm: str
    """The algorithm's name in hashlib."""
    value: bytes


@define(eq=False)
class PartialFile:
    """A file, and how much of it has been fetched."""

    path: Path
    size: int = 0
    """The number of bytes that were fetched."""
    total: int | None = None
    """The size of the whole in bytes; None where the server did not say."""
    etag: str | None = None
    digest: Digest | None = None

    def range_headers(self) -> Mapping[str, str]:
        """Returns the headers that ask for the rest of the file."""
        if not self.size:
            return {}
        return {"Range": f"bytes={self.size}-", **({"If-Range": self.etag} if self.etag else {})}

    def start_over(self) -> None:
        self.size, self.total, self.etag, self.digest = 0, None, None, None

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Reads the headers of a response, whose body is then written from `size` on.

        Raises:
            APIConnectionError: the file has changed on the server; it is then fetched from its
                start.
            CheckpointDownloadError: the response is encoded, or does not say which part it is.
        """
        if headers.get("content-encoding", "identity") != "identity":
            raise CheckpointDownloadError(
                f"{self.path.name} was sent in the encoding {headers['content-encoding']!r}, which "
                "was not asked for"
            )
        start, total = _extent(status, headers)
        if start != (self.size if status == 206 else 0) or (
            start and self.total not in (None, total)
        ):
            self.start_over()
            raise APIConnectionError(f"{self.path.name} changed on the server during the download")
        if not start:
            self.start_over()
        self.size, self.total = start, total
        etag = headers.get("etag", "")
        # a weak ETag does not mean equal bytes
        self.etag = etag if etag.startswith('"') else None
        self.digest = read_digest(headers) or self.digest

    def end(self) -> None:
        """Checks the size. Raises `APIConnectionError` where the body ended too early."""
        if self.total is not None and self.size != self.total:
            raise APIConnectionError(
                f"{self.path.name} broke off at {self.size} of {self.total} bytes"
            )


def _extent(status: int, headers: Mapping[str, str]) -> tuple[int, int | None]:
    """Returns the byte at which the body begins, and the size of the whole."""
    if status != 206:
        length = headers.get("content-length", "")
        return 0, int(length) if length.isdigit() else None
    found = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if found is None:
        raise CheckpointDownloadError(
            f"the server sent a part with a wrong Content-Range: {headers.get('content-range')!r}"
        )
    return int(found[1]), None if found[2] == "*" else int(found[2])


def read_digest(headers: Mapping[str, str]) -> Digest | None:
    """Returns the digest of the whole file, from whichever header the server puts it in."""
    texts = [headers.get(name, "") for name in ("repr-digest", "digest", "x-goog-hash")]
    if checksum := headers.get("x-amz-checksum-sha256"):
        texts.append(f"sha-256={checksum}")
    found = {name.lower(): value for name, value in _named(",".join(texts).split(","))}
    return next(
        (Digest(ours, found[name]) for name, ours in _ALGORITHMS.items() if name in found), None
    )


def _named(texts: Iterable[str]) -> Iterable[tuple[str, bytes]]:
    for text in texts:
        if match := _DIGESTS.fullmatch(text):
            try:
                yield match[1], base64.b64decode(match[2], validate=True)
            except binascii.Error:
                continue
