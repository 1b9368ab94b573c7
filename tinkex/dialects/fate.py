"""What becomes of a training request whose answer did not come. Plain values: no I/O here.

There are three outcomes, not two: done, failed, unknown. What may be sent again depends on where the exchange died, on what the
request changes, and on what the server does with a (model, seq_id) that it has had already (`Dialect.seq_id_repeats`).
"""

from __future__ import annotations

import re
from typing import Literal

from tinkex.dialects.dialect import SeqIdRepeats
from tinkex.errors import Place

Effect = Literal["changes", "reads"]
"""Whether a request changes the model, or only reads or copies it."""
Verdict = Literal["resend", "resend_once", "unknown"]
"""Send it again until it is answered; once, and read the refusal; or leave it, since nobody knows."""
Refusal = Literal["applied", "state_lost", "unclear"]
"""What the refusal of a repeated request says of the first one."""

_CHANGING = frozenset({"forward_backward", "optim_step", "load_weights"})
_ORDER = re.compile(r"expected\D{0,20}(\d+)\D{1,20}got\D{0,20}(\d+)", re.IGNORECASE)


def effect_of(operation: str) -> Effect:
    return "changes" if operation in _CHANGING else "reads"


def verdict(place: Place, operation: str, repeats: SeqIdRepeats) -> Verdict:
    """What to do about a numbered request of a model that died at `place`."""
    if place in ("connecting", "unsent") or repeats == "repeats":
        return "resend"
    if repeats == "refuses":
        return "resend_once"
    if repeats == "ignores" and effect_of(operation) == "reads":
        return "resend"  # it does no harm twice, and the server counts nothing
    return "unknown"


def expected_number(text: str) -> int | None:
    """The seq_id that a server wants, from the words with which it refuses another: "expected 3, got 2"."""
    found = _ORDER.search(text)
    return int(found[1]) if found else None


def read_refusal(text: str, seq_id: int) -> Refusal:
    """What the refusal of a request that was sent twice under `seq_id` says of the first one."""
    expected = expected_number(text)
    if expected is None or expected == seq_id:
        return "unclear"
    return "applied" if expected > seq_id else "state_lost"
