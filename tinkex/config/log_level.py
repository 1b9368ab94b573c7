"""The log, shown where a setting asks for it: `Config.log_level`."""

from __future__ import annotations

import logging

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def show(level: str) -> None:
    """Lets tinkex's records pass from `level` on; to stderr, where the program has set up no
    logging of its own.
    """
    logger = logging.getLogger("tinkex")
    logger.setLevel(level.upper())
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(_FORMAT))
        logger.addHandler(handler)
