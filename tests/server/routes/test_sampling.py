from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import API, Api, sample, started
from tinkex.local import Limits, Server, serve


def test_a_sample_has_what_was_asked_for(api: Api) -> None:
    sampler_id = api.sampler()
    promise = api.ok(
        "asample",
        **sample(
            sampler_id,
            0,
            5,
            6,
            num_samples=2,
            prompt_logprobs=True,
            topk_prompt_logprobs=1,
            type="sample",
        ),
    )
    assert len(set(promise["sample_sequence_ids"])) == 2
    result = api.result(promise)
    assert (
        result["sequences"]
        == [{"tokens": [6, 1], "logprobs": [-0.5, -1.0], "stop_reason": "stop"}] * 2
    )
    assert result["prompt_logprobs"] == [None, -1.0]
    assert result["topk_prompt_logprobs"] == [None, [[1, -0.5]]]


def test_fifty_samples_at_once(api: Api) -> None:
    sampler_id = api.sampler()

    def one(number: int) -> list[int]:
        return api.result(api.ok("asample", **sample(sampler_id, number, number + 1)))["sequences"][
            0
        ]["tokens"]

    with ThreadPoolExecutor(50) as threads:
        assert list(threads.map(one, range(50))) == [[number + 1, 1] for number in range(50)]
    assert api.engine.count("load_sampler", sampler_id) == 1


def test_a_repeated_sample_is_drawn_once(api: Api) -> None:
    sampler_id = api.sampler()
    big = 98_185_507_000_000_001  # more than a double holds
    promises = [api.ok("asample", **sample(sampler_id, big)) for _ in range(2)]
    assert promises[0] == promises[1]
    api.result(promises[0])
    assert api.ok("asample", **sample(sampler_id, big)) == promises[0]
    assert api.ok("asample", **sample(sampler_id, big + 1)) != promises[0]
    assert api.send("asample", **sample(sampler_id, big, 9)).status_code == 400


def test_samples_without_a_number_are_all_drawn(api: Api) -> None:
    sampler_id = api.sampler()
    assert api.ok("asample", **sample(sampler_id)) != api.ok("asample", **sample(sampler_id))


def test_a_sampling_session_asked_for_twice_is_one(api: Api) -> None:
    session_id = api.session()
    assert api.sampler(session_id, 0) == api.sampler(session_id, 0) != api.sampler(session_id, 1)


def test_a_base_model_is_sampled_without_a_session(api: Api) -> None:
    body = sample("", base_model="fake/base")
    del body["sampling_session_id"]
    assert api.result(api.ok("asample", **body))["sequences"]


@pytest.mark.parametrize(
    ("stop", "strings", "tokens"),
    [
        (None, None, None),
        ([], [], []),
        ("\n", ["\n"], []),
        (["a", "b"], ["a", "b"], []),
        ([1, 2], [], [1, 2]),
    ],
)
def test_stop_has_five_forms(api: Api, stop: Any, strings: Any, tokens: Any) -> None:
    sampler_id = api.sampler()
    api.result(
        api.ok("asample", **sample(sampler_id, sampling_params={"max_tokens": 1, "stop": stop}))
    )
    [_, seen_strings, seen_tokens] = next(
        call[1:] for call in api.engine.calls if call[:2] == ("sample", sampler_id)
    )
    assert (seen_strings, seen_tokens) == (str(strings), str(tokens))


@pytest.mark.parametrize(
    ("asked", "meant"), [(0, 0), (1e-300, 0), (1e-46, 0), (0.01, 0.01), (2, 2)]
)
def test_a_temperature_too_small_to_divide_by_is_greedy(
    api: Api, asked: float, meant: float
) -> None:
    api.result(
        api.ok(
            "asample",
            **sample(api.sampler(), sampling_params={"max_tokens": 1, "temperature": asked}),
        )
    )
    assert api.engine.specs[-1].temperature == meant


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sampling_params": {"stop": [1, "a"]}}, ["sampling_params", "stop"]),
        ({"sampling_params": {"stop": ""}}, ["sampling_params", "stop"]),
        ({"sampling_params": {"max_tokens": 0}}, ["sampling_params", "max_tokens"]),
        ({"sampling_params": {"temperature": -1}}, ["sampling_params", "temperature"]),
        ({"sampling_params": {"top_p": 0}}, ["sampling_params", "top_p"]),
        ({"sampling_params": None}, ["sampling_params"]),
        ({"num_samples": 0}, ["num_samples"]),
        ({"prompt": {"chunks": [{"type": "dmel", "dmel": ""}]}}, ["prompt", "chunks", 0, "type"]),
        ({"sampling_session_id": None}, ["model_path"]),
    ],
)
def test_a_malformed_sample_is_422_and_names_the_field(
    api: Api, change: dict[str, Any], field: list[str | int]
) -> None:
    response = api.send("asample", **{**sample(api.sampler()), **change})
    assert response.status_code == 422, response.text
    assert response.json()["detail"][0]["loc"] == ["body", *field]


def test_logprobs_of_the_prompt_and_the_samples_are_returned(api: Api) -> None:
    targets = {"data": [5, -1, 6, 7], "dtype": "int64", "shape": [2, 2]}
    asked = {
        "topk_sample_logprobs": 1,
        "prompt_alt_tokens_k": 2,
        "target_prompt_logprobs": targets,
        "prompt_logprobs_last_n": 1,
    }
    body = sample(
        api.sampler(), None, 5, 6, 7, prompt_logprobs=True, topk_prompt_logprobs=1, **asked
    )
    result = api.result(api.ok("asample", **body))
    assert result["prompt_logprobs"] == [None, None, -1.0]
    assert result["topk_prompt_logprobs"] == [None, None, [[1, -0.5]]]
    assert result["sequences"][0]["topk_sampled_logprobs"] == [[[1, -0.5]]] * 2
    assert result["target_prompt_logprobs"]["data"] == [-1.0, 0.0, -1.0, -1.0]
    assert result["prompt_alt_tokens"]["tokens"] == {
        "data": [1, 1, 1, 1],
        "dtype": "int64",
        "shape": [2, 2],
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("topk_sample_logprobs", -1),
        ("prompt_alt_tokens_k", -1),
        ("target_prompt_logprobs", {"data": [5, 6], "dtype": "int64"}),
        ("target_prompt_logprobs", {"data": [5.0], "dtype": "float32", "shape": [1, 1]}),
        ("prompt_logprobs_last_n", 1),
    ],
)
def test_a_malformed_option_is_422(api: Api, field: str, value: Any) -> None:
    response = api.send("asample", **sample(api.sampler(), **{field: value}))
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", field]


def test_copies_of_a_sampler_are_numbered_also_after_a_restart(tmp_path: Path) -> None:
    def join(api: Api, sampler_id: str) -> int:
        return api.ok("join_sampling_session", sampling_session_id=sampler_id)["client_counter"]

    with started(RecordingEngine(), data_dir=tmp_path) as api:
        first, second = api.sampler(number=0), api.sampler(number=0)
        assert first != second
        assert [join(api, first), join(api, first), join(api, second)] == [1, 2, 1]
        assert api.send("join_sampling_session", sampling_session_id="none").status_code == 404
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        assert join(api, first) == 3


def events(api: Api, **body: Any) -> list[dict[str, Any]]:
    response = api.send("asample_stream", **body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return [
        json.loads(line.removeprefix("data: "))
        for line in response.text.splitlines()
        if line.startswith("data: ")
    ]


def test_a_stream_sends_each_token_and_the_end(api: Api) -> None:
    assert events(api, **sample(api.sampler())) == [
        {"tokens": [6], "logprobs": [-0.5]},
        {"tokens": [1], "logprobs": [-1.0]},
        {"stop_reason": "stop"},
    ]


@pytest.mark.parametrize(
    ("token", "error", "category"),
    [(99, "token 99 is not a token", "user"), (98, "ZeroDivisionError", "server")],
)
def test_a_stream_that_fails_says_whose_fault_it_is(
    api: Api, token: int, error: str, category: str
) -> None:
    [event] = events(api, **sample(api.sampler(), None, token))
    assert error in event["error"]
    assert event["category"] == category


@pytest.mark.parametrize(
    "change", [{"num_samples": 2}, {"prompt_logprobs": True}, {"sampling_session_id": "none"}]
)
def test_a_stream_of_other_requests_is_refused(api: Api, change: dict[str, Any]) -> None:
    assert api.send("asample_stream", **{**sample(api.sampler()), **change}).status_code in (
        400,
        404,
        422,
    )


def test_a_stream_whose_reader_leaves_is_stopped(api: Api) -> None:
    while api.engine.waiting.acquire(blocking=False):  # from other tests
        pass
    with api.http.stream(
        "POST", f"{API}/asample_stream", json=sample(api.sampler(), None, 95)
    ) as response:
        next(response.iter_bytes())
        assert not api.engine.waiting.acquire(blocking=False)
    assert api.engine.waiting.acquire(timeout=5)


def test_a_stream_counts_among_what_is_under_way() -> None:
    with started(RecordingEngine(), limits=Limits(pending=1)) as api:
        sampler = api.sampler()
        with api.http.stream(
            "POST", f"{API}/asample_stream", json=sample(sampler, None, 95)
        ) as response:
            events_to_come = response.iter_lines()
            next(events_to_come)
            assert "sample_stream" in api.http.get("/").text
            for refused in (
                api.send("asample_stream", **sample(sampler)),
                api.send("asample", **sample(sampler)),
            ):
                assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert api.engine.waiting.acquire(timeout=5)
        assert events(api, **sample(sampler))[-1] == {"stop_reason": "stop"}, (
            "and no more once it has ended"
        )


def test_a_stream_under_way_is_ended_in_good_order_when_the_server_stops(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        serve(engine=RecordingEngine()) as server,
        httpx.Client(base_url=server.base_url, timeout=15) as http,
    ):
        api = Api(http, RecordingEngine())
        with http.stream(
            "POST", f"{API}/asample_stream", json=sample(api.sampler(), None, 95)
        ) as response:
            lines = (line for line in response.iter_lines() if line)
            next(lines)
            stopping = threading.Thread(target=server.close)
            stopping.start()
            *_, last = lines
            stopping.join()
    assert json.loads(last.removeprefix("data: ")) == {
        "error": "the sampling was cancelled",
        "category": "server",
    }
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_stream_keeps_its_session(api: Api, server: Server) -> None:
    session_id = api.session()
    begun = time.time()
    events(api, **sample(api.sampler(session_id)))
    assert server._state.activity._last_request[session_id] >= begun


@pytest.mark.parametrize(
    ("weights", "status"),
    [
        ({}, 422),
        ({"base_model": "no/such"}, 400),
        ({"model_path": "/absolute"}, 400),
        ({"model_path": "tinker://a/b/../c"}, 400),
        ({"model_path": "tinker://none/sampler_weights/x"}, 404),
    ],
)
def test_a_sampling_session_without_a_model_is_refused(
    api: Api, weights: dict[str, str], status: int
) -> None:
    body = {"session_id": api.session(), "sampling_session_seq_id": 0, **weights}
    assert api.send("create_sampling_session", **body).status_code == status


def test_an_unknown_sampling_session_is_404(api: Api) -> None:
    assert api.send("asample", **sample("none")).status_code == 404


def test_a_sample_can_be_cancelled_until_it_ends(api: Api) -> None:
    sampler_id = api.sampler()
    running, ended = (
        api.ok("asample", **sample(sampler_id, 0, 96)),
        api.ok("asample", **sample(sampler_id, 1, 7)),
    )
    assert api.engine.waiting.acquire(timeout=5)
    assert api.result(ended)["sequences"]
    for promise in (running, ended, running):
        api.ok("cancel_future", request_id=promise["request_id"])
    assert api.result(running) == {"error": "cancelled", "category": "user"}
    assert api.result(ended)["sequences"]
    api.engine.gate.set()
