"""What a server says of calls that it will not take for ever, in the headers of its answers."""

from __future__ import annotations

import logging

import httpx
from attrs import define, field

logger = logging.getLogger("tinkex")


@define(eq=False)
class Deprecations:
    """Puts each note in the log once: as an error where the server calls it one, else as a
    warning.
    """

    _said: set[str] = field(factory=set[str])

    def heed(self, operation: str, headers: httpx.Headers) -> None:
        note = headers.get("x-deprecation-note")
        if note is None or note in self._said:
            return
        self._said.add(note)
        level = logging.ERROR if headers.get("x-deprecation-level") == "error" else logging.WARNING
        logger.log(level, "the server says of %s: %s", operation, note)
