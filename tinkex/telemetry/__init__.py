"""Handlers of events (see `tinkex.events`): a log, counters and latencies, and OpenTelemetry.

docs/telemetry.md describes them.

Example:
    >>> from tinkex import telemetry
    >>> handler = telemetry.attach_logger()
    >>> telemetry.detach(handler)
"""

from tinkex.events import attach, detach
from tinkex.telemetry.log import attach_logger
from tinkex.telemetry.metrics import Histogram, Metrics

__all__ = ["Histogram", "Metrics", "attach", "attach_logger", "detach"]
