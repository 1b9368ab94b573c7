"""Whether a sample is asked for again when its result is lost: it changes nothing, so it may. Plain values: no I/O here."""

from __future__ import annotations

import re

from tinkex.errors import GoneError, NotFoundError, RequestFailedError, TinkexError

_GIVEN_ALREADY = re.compile(r"already (been )?(retrieved|given|delivered|consumed|seen)|seen before|expired", re.IGNORECASE)


def result_is_lost(error: TinkexError) -> bool:
    """Whether waiting for a result ended because the server has it no more: it went past its time, or was given out once already."""
    if isinstance(error, RequestFailedError):
        return bool(_GIVEN_ALREADY.search(error.message))
    return isinstance(error, (GoneError, NotFoundError))
