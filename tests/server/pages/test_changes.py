"""Changes and computations by the pages: deletions and samples, and who may ask for them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.server.pages.test_pages import text
from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import Api, saved, started
from tinkex.local import Server, serve

KEYS = ("hers", "his")


@pytest.fixture
def api() -> Iterator[Api]:
    with started(RecordingEngine()) as api:
        yield api


@pytest.fixture
def keyed() -> Iterator[Server]:
    with serve(engine=RecordingEngine(), api_key=list(KEYS)) as server:
        yield server


@contextmanager
def browser(server: Server, key: str) -> Iterator[httpx.Client]:
    """Yields a browser that is logged in, and sends what browsers send with every form."""
    headers = {"Origin": server.base_url}
    with httpx.Client(base_url=server.base_url, headers=headers) as http:
        assert http.post("/login", data={"key": key}).status_code == 303
        yield http


def save(server: Server, key: str) -> str:
    """Saves a checkpoint with a key; returns the address of the question whether to delete it."""
    with httpx.Client(base_url=server.base_url, headers={"X-API-Key": key}) as http:
        model_id, url = saved(Api(http, RecordingEngine()))
    return f"/runs/{model_id}/{url.partition(model_id + '/')[2]}/delete"


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


class TestDeletion:
    def test_it_asks_and_then_deletes(self, api: Api) -> None:
        model_id, url = saved(api)
        question = f"/runs/{model_id}/{url.partition(model_id + '/')[2]}/delete"
        asked = text(api.http.get(question).text)
        assert "Delete one?" in asked
        assert "39 B of" in asked
        assert api.http.get(url.rpartition("/")[0].rpartition("/")[0]).json()["checkpoints"]
        done = api.http.post(question)
        assert (done.status_code, done.headers["location"]) == (303, f"/runs/{model_id}")
        assert "None has been saved." in text(api.http.get(f"/runs/{model_id}").text)
        assert api.http.post(question).status_code == 404

    def test_only_the_owner_may(self, keyed: Server) -> None:
        question = save(keyed, "hers")
        with browser(keyed, "his") as his, browser(keyed, "hers") as hers:
            assert his.get(question).status_code == his.post(question).status_code == 404
            assert hers.get(question).status_code == 200
            assert hers.post(question).status_code == 303

    @pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null", None])
    def test_no_page_of_another_site_may_and_none_of_another_port(
        self, keyed: Server, origin: str | None
    ) -> None:
        question = save(keyed, "hers")
        with browser(keyed, "hers") as hers:
            del hers.headers["Origin"]
            headers = {"Origin": origin} if origin else {}
            answer = hers.post(question, headers=headers)
            assert answer.status_code == 403
            assert "from its own pages only" in answer.json()["detail"]
            assert hers.post("/playground/sample", headers=headers, json={}).status_code == 403
            assert hers.get(question).status_code == 200  # it is still there

    def test_who_is_not_logged_in_may_not(self, keyed: Server) -> None:
        question = save(keyed, "hers")
        with httpx.Client(base_url=keyed.base_url) as http:
            assert http.get(question).status_code == 401
            assert http.post(question).status_code == 401

    def test_a_program_may_with_its_key(self, keyed: Server) -> None:
        question = save(keyed, "hers")
        headers = {"X-API-Key": "hers"}
        answer = httpx.post(keyed.base_url + question, headers=headers)
        assert answer.status_code == 303

    def test_without_keys_other_sites_are_refused_too(self, api: Api) -> None:
        model_id, url = saved(api)
        question = f"/runs/{model_id}/{url.partition(model_id + '/')[2]}/delete"
        answer = api.http.post(question, headers={"Origin": "http://evil.example"})
        assert answer.status_code == 403
        assert api.http.get(question).status_code == 200


class TestSamples:
    ASK = {"weights": "fake/base", "prompt": "5 6", "max_tokens": 3, "temperature": 1.0}  # noqa: RUF012

    def test_tokens_come_one_by_one_with_what_else_was_likely(self, api: Api) -> None:
        answer = api.http.post("/playground/sample", json=self.ASK)
        assert answer.headers["content-type"].startswith("text/event-stream")
        prompt, *tokens, end = events(answer)
        assert prompt == {"prompt": "5 6"}
        assert [token["text"] for token in tokens] == [f"{token['token']} " for token in tokens]
        assert all(math.isfinite(token["logprob"]) for token in tokens)
        assert end["prompt_tokens"] == 2
        assert end["stop_reason"] in ("stop", "length")
        assert api.engine.specs[-1].topk_sample_logprobs == 5

    def test_a_checkpoint_is_sampled_by_its_path(self, api: Api) -> None:
        model_id, url = saved(api, kind="save_weights_for_sampler")
        path = f"tinker://{model_id}/{url.partition('checkpoints/')[2]}"
        page = api.http.get("/playground", params={"weights": path}).text
        assert f'<option value="{path}" selected>' in page
        answer = api.http.post("/playground/sample", json={**self.ASK, "weights": path})
        assert answer.status_code == 200
        assert any(folder is not None for folder in api.engine.samplers.values())

    @pytest.mark.parametrize(
        ("change", "status", "words"),
        [
            ({"prompt": ""}, 422, "prompt"),
            ({"prompt": "five"}, 400, "the ids of its tokens"),
            ({"weights": None}, 422, "weights"),
            ({"weights": "tinker://no/weights/one"}, 404, "no"),
            ({"max_tokens": 0}, 422, "max_tokens"),
            ({"max_tokens": 1e9}, 422, "max_tokens"),
            ({"temperature": -1}, 422, "temperature"),
            ({"temperature": "hot"}, 422, "temperature"),
            ({"seed": 0.5}, 422, "seed"),
            ({"chat": "yes"}, 422, "chat"),
            ({"chat": True}, 400, "has no chat template"),
        ],
    )
    def test_what_cannot_be_sampled_is_refused(
        self, api: Api, change: dict[str, Any], status: int, words: str
    ) -> None:
        answer = api.http.post("/playground/sample", json={**self.ASK, **change})
        assert answer.status_code == status
        assert words in json.dumps(answer.json()["detail"])

    def test_a_key_samples_only_what_it_may_see(self, keyed: Server) -> None:
        question = save(keyed, "hers")
        _, _, run_id, _, kind, name, _ = question.split("/")
        ask = {**self.ASK, "weights": f"tinker://{run_id}/{kind}/{name}"}
        with browser(keyed, "his") as his, browser(keyed, "hers") as hers:
            assert his.post("/playground/sample", json=ask).status_code == 404
            assert hers.post("/playground/sample", json=ask).status_code == 200
            assert run_id not in his.get("/playground").text
            assert run_id in hers.get("/playground").text

    def test_samples_count_as_usage(self, api: Api) -> None:
        api.http.post("/playground/sample", json=self.ASK)
        assert "Sampling 0 tokens/s" not in text(api.http.get("/").text)
