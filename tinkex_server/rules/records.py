"""The rule for records of work that is done: that work does not fail with them."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

from tinkex_server.store import StoreWriteError

logger = logging.getLogger("tinkex.local")


@contextmanager
def recording(work: str) -> Generator[None]:
    """Lets the block fail to write records of this work, which is done, and logs that.

    A client that is told of a failure takes the work for not done, and may do it twice.
    """
    try:
        yield
    except StoreWriteError as error:
        logger.error("%s is done, but missing from the records: %s", work, error)
