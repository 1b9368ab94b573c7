"""Streamed samples through the bridge: each token as the server sends it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.counting_engine import CountingEngine
from tests.support.server_calls import API, Api, sample
from tinkex.bridge.routing import Routing, Target
from tinkex.local import serve


def _events(api: Api, **body: Any) -> list[dict[str, Any]]:
    response = api.send("asample_stream", **body)
    assert response.status_code == 200, response.text
    lines = (line for line in response.text.splitlines() if line.startswith("data: "))
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_each_token_is_passed_on_and_the_end(bridged: Callable[..., Api]) -> None:
    api = bridged()
    session_id = api.session()
    assert _events(api, **sample(api.sampler(session_id))) == [
        {"tokens": [6], "logprobs": [-0.5]},
        {"tokens": [1], "logprobs": [-1.0]},
        {"stop_reason": "stop"},
    ]


def test_tokens_come_before_the_sample_has_ended_and_a_reader_who_leaves_ends_it(
    bridged: Callable[..., Api], engine: CountingEngine
) -> None:
    api = bridged()
    body = sample(api.sampler(), None, 95)  # which goes on until it is cancelled
    with api.http.stream("POST", f"{API}/asample_stream", json=body) as response:
        lines = (line for line in response.iter_lines() if line.startswith("data: "))
        assert json.loads(next(lines).removeprefix("data: "))["tokens"]
        assert not engine.waiting.acquire(blocking=False)
    assert engine.waiting.acquire(timeout=5)


@pytest.mark.parametrize(
    ("token", "error", "category"),
    [(99, "token 99 is not a token", "user"), (98, "ZeroDivisionError", "server")],
)
def test_a_stream_that_fails_says_whose_fault_it_is(
    bridged: Callable[..., Api], token: int, error: str, category: str
) -> None:
    api = bridged()
    [event] = _events(api, **sample(api.sampler(), None, token))
    assert error in event["error"]
    assert event["category"] == category


@pytest.mark.parametrize("change", [{"num_samples": 2}, {"prompt_logprobs": True}])
def test_what_a_stream_cannot_hold_is_refused(
    bridged: Callable[..., Api], change: dict[str, Any]
) -> None:
    api = bridged()
    refused = api.send("asample_stream", **sample(api.sampler()), **change)
    assert refused.status_code in (400, 422)


def test_a_server_without_streams_gives_the_whole_sample(
    bridged: Callable[..., Api], engine: CountingEngine
) -> None:
    with serve(engine=engine, profile="skyrl-0.3", hold=0.2) as server:
        api = bridged(Routing(Target(server.base_url, "skyrl-0.3")))
        events = _events(api, **sample(api.sampler()))
    assert [token for event in events for token in event.get("tokens", [])] == [6, 1]
    assert events[-1] == {"stop_reason": "stop"}
