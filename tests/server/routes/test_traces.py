"""The trace of a session."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import httpx

from tests.support.server_calls import Api, sample
from tinkex_server.routes.support.chrome_trace import chrome_trace
from tinkex_server.store import SessionRow, TimedFuture


def exported(api: Api, session_id: str) -> list[dict[str, Any]]:
    answer = api.get(f"sessions/{session_id}/trace_export").json()
    assert answer["status"] == "ready"
    return httpx.get(answer["url"]).json()["traceEvents"]


def test_a_trace_has_all_that_the_session_asked_for(api: Api) -> None:
    before = time.time()
    session_id = api.session()
    model_id = api.model(session_id)
    api.result(api.step(model_id, 1, 3))
    api.result(api.step(model_id, 2, 99))
    sampler_id = api.sampler(session_id)
    api.result(api.ok("asample", **sample(sampler_id, 0)))
    api.step(model_id, 4)
    events = exported(api, session_id)

    tracks = [event["args"]["name"] for event in events if event["name"] == "thread_name"]
    assert tracks == [session_id, model_id, sampler_id]
    begun = [event for event in events if event["ph"] == "b"]
    kinds = Counter(event["name"] for event in begun)
    assert kinds == {"create_model": 1, "forward_backward": 3, "sample": 1, "waits": 5, "runs": 4}
    states = [event["args"]["state"] for event in begun if event["name"] == "forward_backward"]
    assert states == ["done", "failed", "pending"]
    assert all(
        before * 1e6 <= event["ts"] <= time.time() * 1e6 for event in events if event["ph"] in "be"
    )


def test_the_spans_of_a_request_fit_one_another() -> None:
    session = SessionRow("s", [], {}, "1", None, "mine", 0.0)
    request = TimedFuture(
        "r", "m", 7, "optim_step", "done", created_at=1.0, started_at=3.0, finished_at=4.0
    )
    events = chrome_trace(session, [request], now=9.0)["traceEvents"]
    assert events[0]["args"] == {"name": "mine"}
    spans = [(event["name"], event["ph"], event["ts"]) for event in events if event["ph"] != "M"]
    assert spans == [
        *(("optim_step", "b", 1e6), ("optim_step", "e", 4e6)),
        *(("waits", "b", 1e6), ("waits", "e", 3e6)),
        *(("runs", "b", 3e6), ("runs", "e", 4e6)),
    ]


def test_spans_of_requests_in_progress_end_now() -> None:
    session = SessionRow("s", [], {}, "1", None, None, 0.0)
    request = TimedFuture(
        "r", "m", None, "sample", "pending", created_at=1.0, started_at=None, finished_at=None
    )
    events = chrome_trace(session, [request], now=9.0)["traceEvents"]
    assert [(event["name"], event["ts"]) for event in events if event["ph"] == "e"] == [
        ("sample", 9e6),
        ("waits", 9e6),
    ]


def test_a_trace_of_an_unknown_session_is_404(api: Api) -> None:
    assert api.get("sessions/s-none/trace_export").status_code == 404
