"""Servers with API keys: each key sees its own and nobody else's, on every route."""

from __future__ import annotations

import hashlib
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from starlette.routing import Route

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import API, Api, new_model, sample, step
from tinkex.cli import main
from tinkex.local import serve
from tinkex_server.access import api_keys
from tinkex_server.access.api_keys import ApiKeyRequired, InvalidApiKeys, _hashed
from tinkex_server.app.app import ROUTES
from tinkex_server.store import Store

CHECKPOINT = "/training_runs/{run_id}/checkpoints/{kind}/{name}"
HERS, HIS = "tml-hers-1234", "tml-his-5678"


@contextmanager
def keyed(**how: Any) -> Iterator[tuple[Api, Api]]:
    """A server with two keys, and a client with each."""
    engine = RecordingEngine()
    engine.gate.set()
    with (
        serve(engine=engine, api_key=[HERS, HIS], **how) as server,
        httpx.Client(base_url=server.base_url, headers={"X-API-Key": HERS}, timeout=15) as hers,
        httpx.Client(base_url=server.base_url, headers={"X-API-Key": HIS}, timeout=15) as his,
    ):
        yield Api(hers, engine), Api(his, engine)


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Api, Api]]:
    with keyed() as apis:
        yield apis


@pytest.fixture(scope="module")
def hers(both: tuple[Api, Api]) -> dict[str, str]:
    """The ids of what the first key owns, by the names used below."""
    api, _ = both
    session = api.session()
    model = api.model(session)
    promise = api.ok("save_weights", model_id=model, seq_id=1, path="state")
    loss = {
        "session_id": session,
        "custom_loss_seq_id": 0,
        "name": "mine",
        "inputs": [{"name": "logprobs", "rank": 1}],
    }
    api.result(api.ok("create_custom_loss", **loss, graph={"format": 1, "nodes": []}))
    return {
        "session": session,
        "model": model,
        "request": promise["request_id"],
        "path": api.result(promise)["path"],
        "sampler": api.sampler(session, 0),
        "upload": api.ok(
            "external_weights_upload_start", base_model="fake/base", lora_config={"rank": 4}
        )["upload_id"],
    }


def ask(api: Api, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
    return api.http.request(method, f"{API}{path}", json=body)


def requests_for(
    hers: Mapping[str, str],
) -> dict[tuple[str, str], list[tuple[str, dict[str, Any] | None]]]:
    """Returns, by method and route, paths and bodies that name what the first key owns."""
    session, model, request, path, sampler = (
        hers[name] for name in ("session", "model", "request", "path", "sampler")
    )
    graph = {
        "name": "l",
        "inputs": [{"name": "logprobs", "rank": 1}],
        "graph": {"format": 1, "nodes": []},
    }
    number = {"session_id": session, "sampling_session_seq_id": 0, "base_model": "fake/base"}
    checkpoint = f"/training_runs/{model}/checkpoints/weights/state"
    lost: dict[str, Any] = {"reason": {"type": "success"}, "detail": None}
    return {
        ("POST", "/session_heartbeat"): [("/session_heartbeat", {"session_id": session})],
        ("GET", "/sessions/{session_id}"): [(f"/sessions/{session}", None)],
        ("POST", "/create_model"): [
            ("/create_model", new_model(session, 0)),
            ("/create_model", new_model(session, 7)),
        ],
        ("POST", "/get_info"): [("/get_info", {"model_id": model})],
        ("POST", "/create_custom_loss"): [
            ("/create_custom_loss", {"session_id": session, "custom_loss_seq_id": number, **graph})
            for number in (0, 8)
        ],
        ("POST", "/forward_backward"): [
            ("/forward_backward", step(model, number)) for number in (2, 2, None)
        ],
        ("POST", "/forward"): [("/forward", step(model, None, path="forward"))],
        ("POST", "/optim_step"): [("/optim_step", {"model_id": model, "adam_params": {}})],
        ("POST", "/save_weights"): [("/save_weights", {"model_id": model, "path": "b"})],
        ("POST", "/save_weights_for_sampler"): [
            ("/save_weights_for_sampler", {"model_id": model, "path": "c"})
        ],
        ("POST", "/save_weights_external"): [
            ("/save_weights_external", {"model_id": model, "path": "d"})
        ],
        ("POST", "/load_weights"): [
            ("/load_weights", {"model_id": model, "seq_id": 3, "path": path, "optimizer": False}),
            (
                "/load_weights",
                {"session_id": session, "model_seq_id": 9, "path": path, "optimizer": False},
            ),
        ],
        ("POST", "/copy_weights"): [
            ("/copy_weights", {"source_path": path, "destination_project_id": "p"}),
            ("/copy_weights", {"source_path": path, "session_id": session, "model_seq_id": 5}),
        ],
        ("POST", "/create_sampling_session"): [
            ("/create_sampling_session", number),
            (
                "/create_sampling_session",
                {**number, "sampling_session_seq_id": 6, "base_model": None, "model_path": path},
            ),
        ],
        ("GET", "/samplers/{sampler_id:path}"): [(f"/samplers/{sampler}", None)],
        ("POST", "/join_sampling_session"): [
            ("/join_sampling_session", {"sampling_session_id": sampler})
        ],
        ("POST", "/asample"): [
            ("/asample", sample(sampler, 1)),
            ("/asample", {**sample(sampler), "sampling_session_id": None, "model_path": path}),
        ],
        ("POST", "/asample_stream"): [("/asample_stream", sample(sampler))],
        ("POST", "/retrieve_future"): [("/retrieve_future", {"request_id": request})],
        ("POST", "/retrieve_futures"): [
            (
                "/retrieve_futures",
                {
                    "target": {"type": "sampling_session", "sampling_session_id": sampler},
                    "timeout": 0,
                },
            )
        ],
        ("POST", "/cancel_future"): [("/cancel_future", {"request_id": request})],
        ("GET", "/training_runs/{run_id}"): [(f"/training_runs/{model}", None)],
        ("GET", "/training_runs/{run_id}/checkpoints"): [
            (f"/training_runs/{model}/checkpoints", None)
        ],
        ("GET", "/training_runs/{run_id}/steps"): [(f"/training_runs/{model}/steps", None)],
        ("POST", "/training_runs/{run_id}/metrics"): [
            (f"/training_runs/{model}/metrics", {"metrics": {"reward": 1.0}})
        ],
        ("POST", "/weights_info"): [("/weights_info", {"tinker_path": path})],
        **{
            (method, f"{CHECKPOINT}{end}"): [(f"{checkpoint}{end}", body)]
            for method, end, body in (
                ("GET", "/archive", None),
                ("GET", "/download", None),
                ("GET", "/external_weights_urls", None),
                ("POST", "/publish", None),
                ("DELETE", "/publish", None),
                ("PUT", "/ttl", {"ttl_seconds": 3600}),
            )
        },
        ("GET", f"{CHECKPOINT}/files/{{file}}"): [
            (f"{checkpoint}/files/adapter_model.safetensors", None)
        ],
        ("PUT", "/sessions/{session_id}/project"): [
            (f"/sessions/{session}/project", {"project_id": "p"})
        ],
        **{
            ("GET", f"/sessions/{{session_id}}/{name}"): [(f"/sessions/{session}/{name}", None)]
            for name in ("trace_export", "trace")
        },
        ("DELETE", "/training_runs/{run_id}/checkpoints/{kind}/{name}"): [(checkpoint, None)],
        ("POST", "/unload_model"): [("/unload_model", {"model_id": model})],
        ("PUT", "/external_weights_uploads/{upload_id}/{file}"): [
            (f"/external_weights_uploads/{hers['upload']}/adapter_config.json", {})
        ],
        ("POST", "/external_weights_upload_finish"): [
            ("/external_weights_upload_finish", {"upload_id": hers["upload"]})
        ],
        ("POST", "/sessions/{session_id}/finish"): [(f"/sessions/{session}/finish", lost)],
    }


NAME_NOTHING = {
    *(
        ("POST", path)
        for path in ("/client/config", "/client/dynamic_config", "/create_session", "/telemetry")
    ),
    *(
        ("GET", path)
        for path in (
            "/healthz",
            "/get_server_capabilities",
            "/tokenizer",
            "/sessions",
            "/training_runs",
            "/checkpoints",
        )
    ),
    *(
        ("GET", path)
        for path in ("/audit", "/billing/usage/events", "/billing/usage/checkpoints/current")
    ),
    *(
        ("POST", path)
        for path in ("/sessions/search", "/checkpoints/search", "/external_weights_upload_start")
    ),
    *(("POST", "/auth/token"), ("GET", "/auth/apikey/me"), ("DELETE", "/auth/apikey/me")),
}
"""The routes whose requests name nothing that belongs to a key. The lists have tests of their own.
"""


def served_routes() -> list[tuple[str, str]]:
    methods = [
        (route, method)
        for route in ROUTES
        if isinstance(route, Route)
        for method in route.methods or ()
    ]
    return [(method, route.path.removeprefix(API)) for route, method in methods if method != "HEAD"]


@pytest.mark.parametrize(
    "route", [route for route in served_routes() if route not in NAME_NOTHING], ids=" ".join
)
def test_objects_of_other_keys_are_404_on_every_route(
    both: tuple[Api, Api], hers: dict[str, str], route: tuple[str, str]
) -> None:
    """A new route must be put into one of the two tables."""
    for path, body in requests_for(hers)[route]:
        response = ask(both[1], route[0], path, body)
        assert response.status_code == 404, (body, response.text)


def test_the_owner_may_send_all_of_these_requests(
    both: tuple[Api, Api], hers: dict[str, str]
) -> None:
    """The same requests succeed with the first key, so only the key made them 404."""
    for (method, _), asked in requests_for(hers).items():
        for path, body in asked:
            response = ask(both[0], method, path, body)
            assert response.status_code in (200, 302, 400, 409), (path, body, response.text)


def test_lists_contain_only_the_keys_own_objects() -> None:
    with keyed() as (hers, his):
        for api in (hers, his):
            model = api.model()
            api.result(api.ok("save_weights", model_id=model, seq_id=1, path="state"))
        sessions = [api.get("sessions").json()["sessions"] for api in (hers, his)]
        runs = [api.get("training_runs").json() for api in (hers, his)]
        checkpoints = [api.get("checkpoints").json() for api in (hers, his)]
        found = [api.ok("sessions/search")["sessions"] for api in (hers, his)]
        events = [api.get("audit").json()["entries"] for api in (hers, his)]
        stored = [
            api.get("billing/usage/checkpoints/current").json()["data"] for api in (hers, his)
        ]
    assert [len(listed) for listed in sessions] == [1, 1]
    assert sessions[0] != sessions[1]
    assert [[session["session_id"] for session in listed] for listed in found] == sessions
    assert [len(listed["training_runs"]) for listed in runs] == [1, 1]
    assert [[row["checkpoint_count"] for row in rows] for rows in stored] == [[1], [1]]
    for mine, theirs in ((0, 1), (1, 0)):
        assert sessions[mine][0] in str(events[mine])
        assert sessions[theirs][0] not in str(events[mine])
    assert [listed["cursor"]["total_count"] for listed in (*runs, *checkpoints)] == [1] * 4
    assert (
        checkpoints[0]["checkpoints"][0]["tinker_path"]
        != checkpoints[1]["checkpoints"][0]["tinker_path"]
    )


def test_a_loss_of_another_session_cannot_be_used(
    both: tuple[Api, Api], hers: dict[str, str]
) -> None:
    model = both[1].model()
    body = step(model, 1)
    body["forward_backward_input"] |= {
        "loss_fn": "custom",
        "loss_fn_config": {"loss_id": f"{hers['session']}:loss:0"},
    }
    response = both[1].send("forward_backward", **body)
    assert (response.status_code, "has no custom loss" in response.text) == (400, True)


def test_anothers_state_is_not_loaded_into_ones_own_model(
    both: tuple[Api, Api], hers: dict[str, str]
) -> None:
    model = both[1].model()
    loaded = both[1].ok(
        "load_weights", model_id=model, seq_id=1, path=hers["path"], optimizer=False
    )
    assert "there is no checkpoint" in both[1].result(loaded)["error"]


@pytest.mark.parametrize(
    "headers",
    [{}, {"X-API-Key": "tml-other"}, {"X-API-Key": ""}, {"Authorization": f"Bearer {HERS}"}],
)
def test_without_an_accepted_key_the_status_is_401(
    both: tuple[Api, Api], headers: dict[str, str]
) -> None:
    url = both[0].http.base_url
    assert httpx.get(f"{url}{API}/sessions", headers=headers).status_code == 401
    assert httpx.get(f"{url}{API}/no_such_route", headers=headers).status_code == 401, (
        "nor is it told which routes there are"
    )
    assert httpx.get(f"{url}{API}/healthz", headers=headers).status_code == 200


def test_a_key_finds_its_objects_after_a_restart(tmp_path: Path) -> None:
    with keyed(data_dir=tmp_path) as (hers, _):
        session = hers.session()
    with keyed(data_dir=tmp_path) as (hers, his):
        assert hers.get(f"sessions/{session}").status_code == 200
        assert his.get(f"sessions/{session}").status_code == 404


def test_a_key_that_is_no_longer_configured_is_refused(tmp_path: Path) -> None:
    with keyed(data_dir=tmp_path):
        pass
    with serve(engine=RecordingEngine(), data_dir=tmp_path, api_key=HERS) as server:
        assert (
            httpx.get(f"{server.base_url}{API}/sessions", headers={"X-API-Key": HIS}).status_code
            == 401
        )


def test_a_revoked_key_is_refused_after_a_restart_too(tmp_path: Path) -> None:
    with keyed(data_dir=tmp_path):
        pass
    store = Store(tmp_path / "tinkex.db")
    first = store.keys.get(1)
    assert first
    store.keys.revoke(first.key_id, 1.0)
    store.close()
    with keyed(data_dir=tmp_path) as (hers, his):
        assert hers.get("sessions").status_code == 401
        assert his.get("sessions").status_code == 200


def test_the_hash_of_a_key_is_slow_and_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes: list[bytes] = []

    def noted(key: str, salt: bytes) -> bytes:
        hashes.append(_hashed(key, salt))
        return hashes[-1]

    monkeypatch.setattr(api_keys, "_hashed", noted)  # other tests have a quick hash
    for _ in range(2):
        with keyed(data_dir=tmp_path):
            pass
    with closing(sqlite3.connect(tmp_path / "tinkex.db")) as database:
        stored = database.execute("SELECT hash, salt FROM keys ORDER BY key_id").fetchall()
    slow = [
        hashlib.scrypt(key.encode(), salt=salt, n=2**14, r=8, p=1)
        for key, (_, salt) in zip((HERS, HIS), stored, strict=True)
    ]
    assert [hashed for hashed, _ in stored] == slow
    assert hashes == slow * 2


def test_no_key_is_in_the_data_folder(tmp_path: Path) -> None:
    with keyed(data_dir=tmp_path) as (hers, _):
        hers.model()
        written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    written += b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert HERS.encode() not in written
    assert HIS.encode() not in written


@pytest.mark.parametrize("key", ["", "two words", "schlüssel", "a\nb", "eyJhbGciOi"])
def test_unknown_facts_about_a_key_are_null(key: str) -> None:
    with pytest.raises(InvalidApiKeys, match="API key"):
        serve(engine=RecordingEngine(), api_key=key)


def test_a_server_that_imitates_another_takes_one_key() -> None:
    with pytest.raises(InvalidApiKeys, match="one API key"):
        serve(engine=RecordingEngine(), api_key=[HERS, HIS], profile="skyrl")


@pytest.mark.parametrize("profile", ["tinkex", "skyrl", "hosted"])
@pytest.mark.parametrize(
    "query", ["signature=x", "signature", "%73ignature=x", "expires=1&signature="]
)
def test_a_parameter_named_signature_gives_no_access(profile: str, query: str) -> None:
    with (
        serve(engine=RecordingEngine(), api_key=HERS, profile=profile) as server,
        httpx.Client(base_url=server.base_url) as http,
    ):
        body = {"tags": [], "user_metadata": {}, "sdk_version": "1", "type": "create_session"}
        refused = (401, 403)
        assert http.post(f"{API}/create_session?{query}", json=body).status_code in refused
        assert http.get(f"{API}/get_server_capabilities?{query}").status_code in refused
        assert server._state.store.sessions.ids(None, 10, 0) == []


@pytest.mark.parametrize("host", ["0.0.0.0", ""])
def test_a_public_address_needs_a_key(host: str) -> None:
    with pytest.raises(
        ApiKeyRequired, match=r"0\.0\.0\.0 can be reached from other machines.*API key"
    ):
        serve(engine=RecordingEngine(), host=host)
    with serve(engine=RecordingEngine(), host=host, api_key=HERS) as server:
        port = int(server.base_url.rpartition(":")[2])
        assert httpx.get(f"http://127.0.0.1:{port}{API}/sessions").status_code == 401


@pytest.mark.skipif(not socket.has_ipv6, reason="the machine has no IPv6")
def test_loopback_addresses_need_no_key(tmp_path: Path) -> None:
    for host in ("localhost", "127.0.0.2", "::1"):
        with serve(engine=RecordingEngine(), host=host) as server:
            assert httpx.get(f"{server.base_url}{API}/sessions").status_code == 200


def test_the_command_refuses_a_public_address_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TINKEX_SERVER_API_KEYS", raising=False)
    options = ["serve", "--host", "0.0.0.0", "--port", "0", "--data-dir", str(tmp_path)]
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 1
    assert "can be reached from other machines" in result.output


def test_the_command_takes_keys_from_options_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKEX_SERVER_API_KEYS", " one, two words ,three,")
    options = ["serve", "--port", "0", "--data-dir", str(tmp_path)]
    assert "no space" in CliRunner().invoke(main, options).output, "of the second"
    assert "no space" in CliRunner().invoke(main, [*options, "--api-key", "a b"]).output
