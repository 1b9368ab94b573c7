"""Fetches a file from a URL that needs no key."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import httpx

from tinkex.cli.exit_codes import ExitCode
from tinkex.cli.failures import Failure
from tinkex.config.secrets import without_queries

_TIMEOUT = 60.0  # seconds without a byte


def fetch(url: str, target: Path) -> int:
    """Writes the answer to a file, whole or not at all, and returns its size in bytes.

    Raises:
        Failure: the server does not answer, or not with the file.
    """
    place = without_queries(url)
    try:
        with (
            httpx.stream("GET", url, timeout=_TIMEOUT, follow_redirects=True) as answer,
            whole_file(target) as file,
        ):
            if not answer.is_success:
                raise Failure(f"{place} answered with status {answer.status_code}")
            for piece in answer.iter_bytes():
                file.write(piece)
            return file.tell()
    except httpx.TransportError as error:
        raise Failure(f"{place} cannot be fetched: {error}", code=ExitCode.UNREACHABLE) from error


@contextmanager
def whole_file(target: Path) -> Generator[BinaryIO]:
    """Opens a new file that takes the place of `target` at the end, or is removed by an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
