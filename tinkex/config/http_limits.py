"""Limits of the connections to a server."""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import optional

from tinkex.config.checks import not_negative, positive


@frozen(kw_only=True)
class HttpLimits:
    """How many connections a client opens, and how long an idle one is kept."""

    max_connections: int | None = field(default=None, validator=optional(positive))
    """None: as many as there are requests under way."""
    keepalive: float = field(default=4.0, validator=not_negative)
    """Seconds. Below the 5 after which common servers close an idle connection: a request sent on one that is just being closed dies
    unanswered, and for a training step that would mean an unknown outcome."""
