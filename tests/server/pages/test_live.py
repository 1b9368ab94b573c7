"""Pages that follow the server, by server-sent events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.server.pages.test_run_pages import add_run, take_step
from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import Api, started
from tinkex.local import serve

LIVE = {"Accept": "text/event-stream"}


@pytest.fixture
def api() -> Iterator[Api]:
    with started(RecordingEngine()) as api:
        yield api


def events(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    return (json.loads(line[6:]) for line in lines if line.startswith("data: "))


def test_a_page_is_sent_whole_and_then_only_what_has_changed(api: Api) -> None:
    model_id = add_run(api, "live")
    take_step(api, model_id, 1, 4)
    with api.http.stream("GET", f"/runs/{model_id}", headers=LIVE) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert next(lines) == "retry: 2000"
        coming = events(lines)
        first = next(coming)
        assert set(first) == {
            *("run_head", "run_metrics", "run_checkpoints", "queue", "failures"),
        }
        assert all(html.lstrip().startswith("<section") for html in first.values())
        take_step(api, model_id, 3, 2)
        changed = next(coming)
        while "run_metrics" not in changed:  # the age of something
            changed = next(coming)
        assert "to 2 at step 2" in changed["run_metrics"]
        assert "run_checkpoints" not in changed


def test_the_stream_ends_with_the_server() -> None:
    with serve(engine=RecordingEngine()) as server:
        with httpx.stream("GET", server.base_url, headers=LIVE, timeout=15) as answer:
            lines = answer.iter_lines()
            next(events(lines))
            begun = time.perf_counter()
            server.close()
            list(lines)
        assert time.perf_counter() - begun < 4


def test_what_is_not_there_is_refused_before_a_stream_begins(api: Api) -> None:
    assert api.http.get("/runs/no-such", headers=LIVE).status_code == 404


def test_who_is_not_logged_in_is_told_not_to_come_again() -> None:
    with serve(engine=RecordingEngine(), api_key="ours") as server:
        assert httpx.get(server.base_url, headers=LIVE).status_code == 204


def test_a_stream_ends_when_its_login_does(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        serve(engine=RecordingEngine(), api_key="ours") as server,
        httpx.Client(base_url=server.base_url, timeout=15) as http,
    ):
        monkeypatch.setattr("tinkex_server.pages.live._RENEWED_AFTER", 0.0)
        http.post("/login", data={"key": "ours"})
        with http.stream("GET", "/", headers=LIVE) as answer:
            lines = answer.iter_lines()
            next(events(lines))
            http.post("/logout")
            assert "event: gone" in list(lines)
