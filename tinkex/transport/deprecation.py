"""Logs the deprecation notes that servers put into the headers of their answers."""

from __future__ import annotations

import logging

from attrs import define, field

from tinkex.transport.port import Headers

logger = logging.getLogger("tinkex")


@define(eq=False)
class Deprecations:
    """The deprecation notes of one server. Each is logged once: as an error where the server says
    so, else as a warning.
    """

    _logged: set[str] = field(factory=set[str])

    def log_note(self, operation: str, headers: Headers) -> None:
        note = headers.get("x-deprecation-note")
        if note is None or note in self._logged:
            return
        self._logged.add(note)
        level = logging.ERROR if headers.get("x-deprecation-level") == "error" else logging.WARNING
        logger.log(level, "%s is deprecated, says the server: %s", operation, note)
