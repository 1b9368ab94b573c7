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
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_an_idle_server_shows_how_to_begin(api: Api) -> None:
    page = api.http.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "fake/base FakeForCausalLM, 64 tokens of context" in text(page.text)
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
    page = api.http.get("/").text
    assert "Step 3, loss per token 50" in text(page)
    assert 'd="M4,116L300,60L596,4"' in page  # the losses rise from 10 to 50
    assert "weights/first 0 s ago" in text(page)
    [link] = re.findall(r'href="(/download/[^"]+)"', page)
    tar = api.http.get(link, follow_redirects=True)
    assert (tar.status_code, tar.headers["content-type"]) == (200, "application/x-tar")
    assert api.http.get(f"/download/{model_id}/weights/second").status_code == 404


def test_of_many_checkpoints_the_newest_are_shown(api: Api) -> None:
    model_id = api.model()
    for number in range(1, 8):
        api.result(api.ok("save_weights", model_id=model_id, seq_id=number, path=f"at-{number}"))
    page = api.http.get("/").text
    assert re.findall(r"/weights/(at-\d)\"", page) == ["at-7", "at-6", "at-5", "at-4", "at-3"]
    assert "And 2 older ones." in text(page)


def test_the_data_folder_is_measured_once_in_a_while(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Path] = []
    monkeypatch.setattr(
        "tinkex_server.pages.status.folder_size", lambda folder: measured.append(folder) or 1234
    )
    for _ in range(3):
        assert "Data folder 1.2 kB" in text(api.http.get("/").text)
    assert len(measured) == 1
    monkeypatch.setattr("tinkex_server.pages.site._DISK_SECONDS", 0.0)
    api.http.get("/")
    assert len(measured) == 2


def test_waiting_requests_are_listed_with_the_reason(api: Api) -> None:
    model_id = api.model()
    api.step(model_id, 2)
    shown = text(api.http.get("/").text)
    assert f"forward_backward {model_id} 2" in shown
    assert "seq_id 2 waits for seq_id 1, which has not come" in shown
    api.engine.gate.clear()
    running = api.model()
    api.step(running, 1, 96)
    api.step(running, 2)
    assert api.engine.waiting.acquire(timeout=10)
    shown = text(api.http.get("/").text)
    api.engine.gate.set()
    assert f"forward_backward {running} 1 0 s runs" in shown
    assert f"forward_backward {running} 2 0 s waits for earlier requests of its model" in shown


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
    assert "<script" not in page
    assert text(page).count(HOSTILE) == 3


def test_the_pages_load_nothing_and_run_nothing(api: Api) -> None:
    for path in ("/", "/docs"):
        page = api.http.get(path)
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert not re.search(r"<(script|link|img|iframe)|\ssrc=|url\(", page.text)


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
        page = http.get("/").text
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
            assert "Data folder" not in his_page
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
