"""The effect of `Config.log_level` on the log."""

from __future__ import annotations

import logging

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def show(level: str) -> None:
    """Sets the level of tinkex's logger.

    The records go to stderr if the program has not configured logging.
    """
    logger = logging.getLogger("tinkex")
    logger.setLevel(level.upper())
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(_FORMAT))
        logger.addHandler(handler)
