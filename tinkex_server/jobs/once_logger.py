"""`OnceLogger`: warnings that are logged once and not for each request."""

from __future__ import annotations

import logging

logger = logging.getLogger("tinkex.local")


class OnceLogger:
    """A logger that remembers what it has warned about."""

    def __init__(self) -> None:
        self._subjects: set[str] = set()

    def warn(self, message: str, *, subject: str) -> None:
        """Logs a warning, unless there was one on this subject."""
        if subject not in self._subjects:
            self._subjects.add(subject)
            logger.warning("%s (this warning is logged once)", message)
