"""`chrome_trace`: the requests of a session in Chrome's trace format, which Perfetto reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinkex_server.store import SessionRow, TimedFuture

_PROCESS = 1


def chrome_trace(
    session: SessionRow, requests: Sequence[TimedFuture], now: float
) -> Mapping[str, Any]:
    """Returns a trace with a track for each model and sampling session. A track has a span for each
    request, divided into its wait and its run; requests that have not ended reach up to `now`.
    """
    tracks = {
        scope: number
        for number, scope in enumerate(
            dict.fromkeys(request.scope for request in requests), start=1
        )
    }
    events = [_name("process_name", session.display_name or session.session_id, 0)]
    events += [_name("thread_name", scope, number) for scope, number in tracks.items()]
    for request in requests:
        events += _spans(request, tracks[request.scope], now)
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _name(what: str, name: str, track: int) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": _PROCESS, "tid": track, "args": {"name": name}}


def _spans(request: TimedFuture, track: int, now: float) -> list[dict[str, Any]]:
    # asynchronous spans, since the requests of a sampling session overlap
    begin, end = request.created_at, request.finished_at or now
    begun = request.started_at or end
    facts = {"request_id": request.request_id, "seq_id": request.seq_id, "state": request.state}
    events = [
        *_span(request, track, request.kind, begin, end, facts),
        *_span(request, track, "waits", begin, begun, {}),
    ]
    return (
        events
        if request.started_at is None
        else [*events, *_span(request, track, "runs", begun, end, {})]
    )


def _span(
    request: TimedFuture,
    track: int,
    name: str,
    begin: float,
    end: float,
    facts: Mapping[str, object],
) -> list[dict[str, Any]]:
    common = {
        "cat": request.kind,
        "id": request.request_id,
        "name": name,
        "pid": _PROCESS,
        "tid": track,
    }
    return [
        {**common, "ph": "b", "ts": begin * 1e6, "args": facts},
        {**common, "ph": "e", "ts": end * 1e6},
    ]
