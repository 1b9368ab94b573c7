"""The HTML pages, as a browser gets them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import API, Api, new_model, started
from tinkex.local import serve
from tinkex_server.pages.reference import read

CONTRACT = Path(__file__).parents[3] / "openapi" / "tinker.yaml"
HOSTILE = """<script>alert(1)</script>"'{{ 7 * 7 }}"""
KEY = "key-of-ours"


@pytest.fixture
def api() -> Iterator[Api]:
    with started(RecordingEngine()) as api:
        yield api


def text(page: str) -> str:
    """Returns the text of a page without its elements."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_an_idle_server_shows_how_to_begin(api: Api) -> None:
    page = api.http.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "fake/base FakeForCausalLM, 64 tokens of context" in text(page.text)
    assert "No request has failed" in text(page.text)
    assert f"export TINKER_BASE_URL={str(api.http.base_url).rstrip('/')}" in text(page.text)
    assert "No request is waiting." in text(page.text)


def test_runs_are_shown_with_losses_and_checkpoints(api: Api) -> None:
    model_id = api.model()
    for number in range(1, 7, 2):
        api.step(model_id, number, 10 * number)
        api.ok(
            "optim_step", model_id=model_id, seq_id=number + 1, adam_params={"learning_rate": 1.0}
        )
    api.result(api.ok("save_weights", model_id=model_id, seq_id=7, path="first"))
    assert f"{model_id} fake/base, rank 4 ready 50 3 1 0 s ago" in text(api.http.get("/").text)
    page = api.http.get(f"/runs/{model_id}").text
    assert "From 10 at step 1 to 50 at step 3" in page
    assert 'd="M0,240L500,120L1000,0"' in page  # the losses rise from 10 to 50, the axis from 0
    assert f"tinker://{model_id}/weights/first train 0 s ago" in text(page)
    [link] = re.findall(r'href="(/download/[^"]+)"', page)
    tar = api.http.get(link, follow_redirects=True)
    assert (tar.status_code, tar.headers["content-type"]) == (200, "application/x-tar")
    assert api.http.get(f"/download/{model_id}/weights/second").status_code == 404


def test_checkpoints_are_shown_page_by_page_the_newest_first(api: Api) -> None:
    model_id = api.model()
    for number in range(1, 23):
        api.ok("save_weights", model_id=model_id, seq_id=number, path=f"at-{number}")
    api.result(api.ok("save_weights", model_id=model_id, seq_id=23, path="at-23"))
    shown = [
        re.findall(r"/weights/(at-\d+)</span>", api.http.get(f"/runs/{model_id}{query}").text)
        for query in ("", "?page=2", "?page=99", "?page=x")
    ]
    names = [f"at-{number}" for number in range(23, 0, -1)]
    assert shown == [names[:20], names[20:], names[20:], names[:20]]


def test_the_data_folder_is_measured_once_in_a_while(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Path] = []
    monkeypatch.setattr(
        "tinkex_server.pages.facts.folder_size", lambda folder: measured.append(folder) or 1234
    )
    for _ in range(3):
        assert " free Running" in text(api.http.get("/").text)
    assert len(measured) == 1
    monkeypatch.setattr("tinkex_server.pages.facts._DISK_SECONDS", 0.0)
    api.http.get("/")
    assert len(measured) == 2


def test_waiting_requests_are_listed_with_whose_turn_it_is(api: Api) -> None:
    model_id = api.model()
    api.step(model_id, 2)
    shown = text(api.http.get("/").text)
    assert (
        f"seq_id 2 waits for seq_id 1, which has not come forward_backward #2 {model_id}" in shown
    )
    api.engine.gate.clear()
    running = api.model()
    api.step(running, 1, 96)
    api.step(running, 3)
    api.step(running, 2)
    assert api.engine.waiting.acquire(timeout=10)
    shown = text(api.http.get(f"/runs/{running}").text)
    api.engine.gate.set()
    assert "Queue 3" in shown
    turns = re.findall(r"(runs|next|\d before it) forward_backward #(\d)", shown)
    assert turns == [("runs", "1"), ("next", "2"), ("1 before it", "3")]


def test_text_from_clients_is_escaped(api: Api) -> None:
    body = {
        "tags": [HOSTILE],
        "user_metadata": {},
        "sdk_version": HOSTILE,
        "display_name": HOSTILE,
        "type": "create_session",
    }
    session_id = api.ok("create_session", **body)["session_id"]
    api.result(api.ok("create_model", **new_model(session_id)))
    page = api.http.get("/").text
    assert "<script>" not in page
    assert text(page).count(HOSTILE) == 2  # the name and the tag
    assert text(api.http.get("/sessions").text).count(HOSTILE) == 3


def test_the_pages_run_only_what_this_server_serves(api: Api) -> None:
    for path in ("/", "/docs", "/playground", "/failures", "/sessions"):
        page = api.http.get(path)
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert not re.search(r"<script>|<style|\sstyle=|\son\w+=|<(img|iframe)", page.text)
        linked = re.findall(r'(?:src|<link[^>]* href)="([^"]+)"', page.text)
        assert len(linked) >= 4
        for url in linked:
            file = api.http.get(url)
            assert (url.startswith("/static/"), file.status_code) == (True, 200)
            assert "immutable" in file.headers["cache-control"]


def test_only_static_files_are_served_as_such(api: Api) -> None:
    [folder] = set(re.findall(r"/static/\w+", api.http.get("/").text))
    for name in ("no.js", "..%2fsite.py", "%2e%2e/site.py", ""):
        assert api.http.get(f"{folder}/{name}").status_code == 404


class TestReference:
    def test_every_operation_and_schema_is_there_and_every_link_leads_somewhere(
        self, api: Api
    ) -> None:
        page = api.http.get("/docs").text
        anchors = re.findall(r'id="([^"]+)"', page)
        assert len(anchors) == len(set(anchors))
        assert set(re.findall(r'href="#([^"]+)"', page)) <= set(anchors)
        contract = CONTRACT.read_text()
        operations = re.findall(r"operationId: (\w+)", contract)
        schemas = re.findall(r"^    (\w+):$", contract.partition("\n  schemas:\n")[2], re.MULTILINE)
        assert len(operations) > 40
        assert len(schemas) > 100
        assert {*operations, *schemas} <= set(anchors)

    def test_a_request_is_shown_with_its_fields(self, api: Api) -> None:
        shown = text(api.http.get("/docs").text)
        assert "POST /api/v1/optim_step".lower() in shown.lower()
        about = "Number of the request among those of the model, from 1."
        assert f"seq_id required integer (int32) {about}" in shown

    def test_the_contract_is_served_as_it_is(self, api: Api) -> None:
        answer = api.http.get("/openapi.yaml")
        assert answer.headers["content-type"].startswith("application/yaml")
        assert answer.text == CONTRACT.read_text()

    def test_types_are_told_in_words(self) -> None:
        fields = {
            "many": {"type": "array", "items": {"$ref": "#/components/schemas/Thing"}},
            "some": {"type": ["number", "null"], "format": "double", "x-tinker-default": 0.5},
            "either": {
                "oneOf": [
                    {"type": "string"},
                    {"type": "object", "additionalProperties": {"type": "integer"}},
                ]
            },
        }
        schema = {
            "type": "object",
            "required": ["many"],
            "properties": fields,
            "description": "A <b> & *thing*",
        }
        thing = read(
            {
                "info": {"title": "T", "version": "1", "description": ""},
                "tags": [],
                "paths": {},
                "components": {"schemas": {"Thing": schema}},
            }
        ).schemas[0]
        assert thing.about == "<p>A &lt;b&gt; &amp; <em>thing</em></p>\n"
        many, some, either = thing.fields
        assert (many.required, [(word.text, word.schema) for word in many.type]) == (
            True,
            [("list of ", None), ("Thing", "Thing")],
        )
        assert "".join(word.text for word in some.type) == "number (double) or null"
        assert "Assumed when missing: 0.5" in some.about
        assert "".join(word.text for word in either.type) == "string or map of integer"


class TestKeys:
    @pytest.fixture
    def http(self) -> Iterator[httpx.Client]:
        with (
            serve(engine=RecordingEngine(), api_key=KEY) as server,
            httpx.Client(base_url=server.base_url) as http,
        ):
            yield http

    def test_without_a_key_only_the_login_form_is_shown(self, http: httpx.Client) -> None:
        session_id = self._session(http)
        page = http.get("/")
        assert page.status_code == 401
        assert 'type="password"' in page.text
        assert session_id not in page.text
        # what needs no key
        assert http.get("/docs").status_code == http.get("/openapi.yaml").status_code == 200

    def test_a_browser_shows_its_key_once(self, http: httpx.Client) -> None:
        session_id = self._session(http)
        answer = http.post("/login", data={"key": KEY})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"]
        assert KEY not in cookie
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        page = http.get("/sessions").text
        assert session_id in page
        assert KEY not in page
        http.post("/logout")
        assert http.get("/").status_code == 401
        http.cookies.set("tinkex_login", cookie.partition(";")[0].partition("=")[2])
        assert http.get("/").status_code == 401  # the secret is no longer valid

    def test_each_key_shows_its_own_runs(self) -> None:
        with serve(engine=RecordingEngine(), api_key=[KEY, "another"]) as server:
            pages = []
            for key in (KEY, "another"):
                with httpx.Client(base_url=server.base_url, headers={"X-API-Key": key}) as http:
                    model_id = Api(http, RecordingEngine()).model()
                    pages.append((model_id, http.get("/").text))
                    save = {"model_id": model_id, "seq_id": 1, "path": "first"}
                    Api(http, RecordingEngine()).result(
                        http.post(f"{API}/save_weights", json=save).json()
                    )
            (hers, her_page), (his, his_page) = pages
            assert (hers in her_page, his in his_page, hers in his_page) == (True, True, False)
            assert " free " not in his_page
            with httpx.Client(base_url=server.base_url) as browser:
                assert browser.get(f"/download/{his}/weights/first").headers["location"] == "/"
                browser.post("/login", data={"key": "another"})
                assert browser.get(f"/download/{hers}/weights/first").status_code == 404
                tar = browser.get(f"/download/{his}/weights/first", follow_redirects=True)
                assert (tar.status_code, tar.headers["content-type"]) == (200, "application/x-tar")

    def test_a_key_in_a_header_works_too(self, http: httpx.Client) -> None:
        assert http.get("/", headers={"X-API-Key": KEY}).status_code == 200

    @pytest.mark.parametrize("key", ["", "wrong", "ключ"])
    def test_a_wrong_key_is_told_so(self, http: httpx.Client, key: str) -> None:
        answer = http.post("/login", data={"key": key})
        assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
        assert "This key is not valid on this server." in answer.text

    def test_a_form_that_is_too_long_is_not_read(self, http: httpx.Client) -> None:
        assert http.post("/login", data={"key": "k" * 5000}).status_code == 413

    def _session(self, http: httpx.Client) -> str:
        body = {"tags": [], "user_metadata": {}, "sdk_version": "1", "type": "create_session"}
        return http.post(f"{API}/create_session", json=body, headers={"X-API-Key": KEY}).json()[
            "session_id"
        ]


def test_a_server_that_looks_like_another_has_the_pages_too() -> None:
    with serve(engine=RecordingEngine(), profile="skyrl") as server:
        assert "skyrl" in text(httpx.get(server.base_url).text)
