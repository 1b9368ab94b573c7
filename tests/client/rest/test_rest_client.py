"""Sessions, runs and checkpoints: against the embedded server what it has, and the other calls
against the contract's examples.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

import tinkex
from tests.support.answering_server import NO_ROUTE, Answer, Answering, Call, answering, as_json
from tests.support.clocks import NoPause
from tests.support.contract import SCHEMAS
from tests.support.facades import everything
from tinkex import (
    ClientClosedError,
    Config,
    Dialect,
    InvalidInputError,
    NotFoundError,
    RequestFailedError,
    SearchOwner,
    SessionSearchRequest,
    SessionStatusQuery,
    UnsupportedByServer,
)
from tinkex.local import Server

API = "/api/v1"
RUN = "S1:train:0"
PATH = f"tinker://{RUN}/weights/0001"
CHECKPOINT = f"{API}/training_runs/{RUN}/checkpoints/weights/0001"
NOTHING = as_json({})


def example(schema: str) -> Answer:
    return as_json(SCHEMAS[schema]["example"])


ANSWERS: dict[str, Answer] = {
    f"POST {API}/client/config": NOTHING,
    f"GET {API}/get_server_capabilities": example("GetServerCapabilitiesResponse"),
    f"GET {API}/sessions": example("ListSessionsResponse"),
    f"GET {API}/sessions/S1": example("GetSessionResponse"),
    f"POST {API}/sessions/search": example("SessionSearchResponse"),
    f"PUT {API}/sessions/S1/project": NOTHING,
    f"GET {API}/samplers/S1:sample:0": example("GetSamplerResponse"),
    f"GET {API}/training_runs": example("TrainingRunsResponse"),
    f"GET {API}/training_runs/{RUN}": example("TrainingRun"),
    f"GET {API}/training_runs/{RUN}/checkpoints": example("CheckpointsListResponse"),
    f"GET {API}/checkpoints": example("CheckpointsListResponse"),
    f"POST {API}/weights_info": example("WeightsInfoResponse"),
    f"DELETE {CHECKPOINT}": Answer(204),
    f"POST {CHECKPOINT}/publish": NOTHING,
    f"DELETE {CHECKPOINT}/publish": NOTHING,
    f"PUT {CHECKPOINT}/ttl": as_json(None),
    f"GET {API}/training_runs/{RUN}/checkpoints/external_weights/e/external_weights_urls": example(
        "ExternalWeightsUrlsResponse"
    ),
    f"POST {API}/copy_weights": example("CopyWeightsResponse"),
    f"GET {API}/auth/apikey/me": example("ApiKeyInfoResponse"),
    f"DELETE {API}/auth/apikey/me": NOTHING,
    f"GET {API}/audit": example("AuditLogResponse"),
    f"GET {API}/billing/usage/events": example("BillingUsageResponse"),
    f"GET {API}/billing/usage/checkpoints/current": example(
        "CurrentCheckpointStorageUsageResponse"
    ),
}
JAN_1 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def examples() -> Iterator[Answering]:
    """A server that has all calls, and answers with the contract's examples."""
    with answering(lambda call: ANSWERS.get(f"{call.method} {call.path}", NO_ROUTE)) as server:
        yield server


CALLS: list[tuple[str, Callable[[Any], Any], str, dict[str, str], Any]] = [
    (
        "sessions",
        lambda rest: rest.list_sessions(5, 10, "accessible").sessions == ["S1"],
        f"GET {API}/sessions",
        {"limit": "5", "offset": "10", "access_scope": "accessible"},
        None,
    ),
    (
        "session",
        lambda rest: rest.get_session("S1").training_run_ids == [RUN],
        f"GET {API}/sessions/S1",
        {"access_scope": "owned"},
        None,
    ),
    (
        "project",
        lambda rest: not rest.assign_session_project("S1", "p"),
        f"PUT {API}/sessions/S1/project",
        {},
        {"project_id": "p"},
    ),
    (
        "sampler",
        lambda rest: rest.get_sampler("S1:sample:0").base_model == "tinkex/tiny",
        f"GET {API}/samplers/S1:sample:0",
        {},
        None,
    ),
    (
        "capabilities",
        lambda rest: rest.get_server_capabilities().supported_models,
        f"GET {API}/get_server_capabilities",
        {},
        None,
    ),
    (
        "runs",
        lambda rest: rest.list_training_runs(project_id="p").cursor.total_count == 1,
        f"GET {API}/training_runs",
        {"limit": "20", "offset": "0", "access_scope": "owned", "project_id": "p"},
        None,
    ),
    (
        "run",
        lambda rest: rest.get_training_run(RUN).last_request_time == JAN_1,
        f"GET {API}/training_runs/{RUN}",
        {"access_scope": "owned"},
        None,
    ),
    (
        "run by path",
        lambda rest: rest.get_training_run_by_tinker_path(PATH, "accessible").lora_rank == 32,
        f"GET {API}/training_runs/{RUN}",
        {"access_scope": "accessible"},
        None,
    ),
    (
        "checkpoints of a run",
        lambda rest: rest.list_checkpoints(RUN).checkpoints[0].time == JAN_1,
        f"GET {API}/training_runs/{RUN}/checkpoints",
        {},
        None,
    ),
    (
        "checkpoints",
        lambda rest: rest.list_user_checkpoints(7, 3).checkpoints[0].tinker_path == PATH,
        f"GET {API}/checkpoints",
        {"limit": "7", "offset": "3"},
        None,
    ),
    (
        "weights info",
        lambda rest: rest.get_weights_info_by_tinker_path(PATH).lora_rank == 32,
        f"POST {API}/weights_info",
        {},
        {"tinker_path": PATH},
    ),
    (
        "delete",
        lambda rest: not rest.delete_checkpoint(RUN, "weights/0001"),
        f"DELETE {CHECKPOINT}",
        {},
        None,
    ),
    (
        "delete by path",
        lambda rest: not rest.delete_checkpoint_from_tinker_path(PATH),
        f"DELETE {CHECKPOINT}",
        {},
        None,
    ),
    (
        "publish",
        lambda rest: not rest.publish_checkpoint(RUN, "weights/0001"),
        f"POST {CHECKPOINT}/publish",
        {},
        None,
    ),
    (
        "publish by path",
        lambda rest: not rest.publish_checkpoint_from_tinker_path(PATH),
        f"POST {CHECKPOINT}/publish",
        {},
        None,
    ),
    (
        "unpublish",
        lambda rest: not rest.unpublish_checkpoint(RUN, "weights/0001"),
        f"DELETE {CHECKPOINT}/publish",
        {},
        None,
    ),
    (
        "unpublish by path",
        lambda rest: not rest.unpublish_checkpoint_from_tinker_path(PATH),
        f"DELETE {CHECKPOINT}/publish",
        {},
        None,
    ),
    (
        "ttl",
        lambda rest: not rest.set_checkpoint_ttl(RUN, "weights/0001", 3600),
        f"PUT {CHECKPOINT}/ttl",
        {},
        {"ttl_seconds": 3600},
    ),
    (
        "no ttl, by path",
        lambda rest: not rest.set_checkpoint_ttl_from_tinker_path(PATH, None),
        f"PUT {CHECKPOINT}/ttl",
        {},
        {"ttl_seconds": None},
    ),
    (
        "external urls",
        lambda rest: (
            rest.get_external_weights_urls(f"tinker://{RUN}/external_weights/e").expires
            == JAN_1 + timedelta(hours=1)
        ),
        f"GET {API}/training_runs/{RUN}/checkpoints/external_weights/e/external_weights_urls",
        {},
        None,
    ),
    (
        "copy",
        lambda rest: rest.copy_weights(PATH, "p", ttl_seconds=3600).startswith("tinker://"),
        f"POST {API}/copy_weights",
        {},
        {"source_path": PATH, "destination_project_id": "p", "ttl_seconds": 3600},
    ),
    (
        "key",
        lambda rest: rest.get_api_key_info().details.user_details.email == "ada@example.org",
        f"GET {API}/auth/apikey/me",
        {},
        None,
    ),
    ("revoke", lambda rest: not rest.revoke_api_key(), f"DELETE {API}/auth/apikey/me", {}, None),
]


@pytest.mark.parametrize(
    ("call", "route", "query", "body"),
    [each[1:] for each in CALLS],
    ids=[each[0] for each in CALLS],
)
def test_a_call_is_sent_and_its_answer_read(
    connect_rest: Callable[..., Any],
    examples: Answering,
    call: Callable[[Any], Any],
    route: str,
    query: dict[str, str],
    body: Any,
) -> None:
    assert call(connect_rest(examples.base_url))
    sent = examples.calls[-1]
    assert f"{sent.method} {sent.path}" == route
    assert (sent.query, json.loads(sent.body) if sent.body else None) == (query, body)
    assert sent.headers["x-api-key"] == "tml-test"


def test_a_search_sends_only_the_given_conditions(
    connect_rest: Callable[..., Any], examples: Answering
) -> None:
    rest = connect_rest(examples.base_url)
    [found] = rest.search_sessions(SessionSearchRequest(user_metadata={"experiment": "7"})).sessions
    assert (found.session_id, found.created_at) == ("S1", JAN_1)
    assert examples.calls[-1].json == {
        "user_metadata": {"experiment": "7"},
        "owner": {"type": "own"},
        "limit": 50,
    }
    rest.search_sessions(
        SessionSearchRequest(
            owner=SearchOwner("user", ["tml:user:a"]),
            statuses=[SessionStatusQuery("client_finished", ["errored"])],
        )
    )
    assert examples.calls[-1].json["statuses"] == [
        {"type": "client_finished", "reasons": ["errored"]}
    ]
    for wrong in ({"limit": 201}, {"statuses": []}, {"owner": SearchOwner("user")}):
        with pytest.raises(InvalidInputError):
            SessionSearchRequest(**wrong)


def test_the_audit_log_billing_and_storage_of_an_organization(
    connect_admin: Callable[..., Any], examples: Answering
) -> None:
    admin = connect_admin(examples.base_url)
    [entry] = admin.get_audit_log("checkpoints", JAN_1.date()).entries
    assert (entry.timestamp, entry.event) == (JAN_1, "checkpoint.deleted")
    assert examples.calls[-1].query == {"event_type": "checkpoints", "day": "2026-01-01"}

    two_east = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    [used] = admin.get_billing_usage(two_east, "2026-01-02T00:00:00").data
    assert (used.bucket_end - used.bucket_start, used.event_info.count) == (timedelta(hours=1), 1)
    assert examples.calls[-1].query == {
        "starting_on": "2026-01-01T00:00:00Z",
        "ending_before": "2026-01-02T00:00:00Z",
    }
    with pytest.raises(InvalidInputError, match="starting_on 'yesterday'"):
        admin.get_billing_usage("yesterday", JAN_1)

    assert admin.get_current_checkpoint_storage_usage("proj-1").data[0].checkpoint_count == 2
    assert examples.calls[-1].query == {"project_id": "proj-1"}


def test_a_redirect_to_another_server_is_followed_without_the_key(
    connect_admin: Callable[..., Any],
) -> None:
    with answering(lambda call: example("AuditLogResponse")) as elsewhere:
        there = {"/api/v1/audit": f"{elsewhere.base_url}/log?signature=x"}
        with answering(lambda call: Answer(307, headers={"Location": there[call.path]})) as server:
            assert connect_admin(server.base_url).get_audit_log().entries
            assert server.calls[0].headers["x-api-key"]
    assert "x-api-key" not in elsewhere.calls[0].headers


def test_a_redirect_within_the_server_keeps_the_key(connect_admin: Callable[..., Any]) -> None:
    def answer(call: Call) -> Answer:
        if call.path == "/api/v1/audit":
            return Answer(308, headers={"Location": "/api/v1/audit/?event_type=all"})
        return (
            example("AuditLogResponse")
            if "x-api-key" in call.headers
            else as_json({"detail": "who?"}, 401)
        )

    with answering(answer) as server:
        assert connect_admin(server.base_url).get_audit_log().entries


def test_a_missing_call_raises_unsupported_by_server(connect_rest: Callable[..., Any]) -> None:
    with answering(lambda call: NO_ROUTE) as server:
        rest = connect_rest(server.base_url)
        for _ in range(2):
            with pytest.raises(UnsupportedByServer, match="list_sessions"):
                rest.list_sessions()
        assert len(server.calls) == 1, "the second time it is known"
        with (
            pytest.raises(NotFoundError),
            answering(lambda call: as_json({"detail": "no session S9"}, 404)) as other,
        ):
            connect_rest(other.base_url).get_session("S9")


def test_publishing_a_published_checkpoint_is_not_retried(
    connect_rest: Callable[..., Any],
) -> None:
    with answering(lambda call: as_json({"detail": "it is so"}, 409)) as server:
        rest = connect_rest(server.base_url)
        rest.publish_checkpoint(RUN, "weights/0001")
        rest.unpublish_checkpoint(RUN, "weights/0001")
    assert len(server.calls) == 2


@pytest.mark.rule(15)
def test_an_id_of_any_form_is_one_part_of_a_url(connect_rest: Callable[..., Any]) -> None:
    with answering(lambda call: NOTHING) as server:
        rest = connect_rest(server.base_url, dialect=Dialect())
        rest.delete_checkpoint("run/with slash:0", "weights/a:b")
        assert (
            server.calls[-1].path
            == f"{API}/training_runs/run%2Fwith%20slash:0/checkpoints/weights/a:b"
        )
        rest.delete_checkpoint_from_tinker_path("twinkle://20260101/weights/x")
        assert server.calls[-1].path == f"{API}/training_runs/20260101/checkpoints/weights/x"
        sent = len(server.calls)
        for wrong in ("weights", "", "/x", "weights/"):
            with pytest.raises(InvalidInputError, match="<kind>/<name>"):
                rest.delete_checkpoint(RUN, wrong)
        for wrong in (
            "weights/0001",
            "tinker://S1/0001",
            "tinker://weights/0001",
            "tinker://S1/weights/",
            "://S1/weights/x",
        ):
            with pytest.raises(InvalidInputError, match="tinker://"):
                rest.delete_checkpoint_from_tinker_path(wrong)
        assert len(server.calls) == sent


def test_archives_by_bare_names_are_one_segment(connect_rest: Callable[..., Any]) -> None:
    with answering(lambda call: as_json({"url": "http://there/"})) as server:
        rest = connect_rest(server.base_url, dialect="skyrl")
        for name in ("0001", "weights/0001"):
            rest.get_checkpoint_archive_url("model_1", name)
        rest.get_checkpoint_archive_url_from_tinker_path("tinker://model_1/sampler_weights/0001")
        assert {call.path for call in server.calls} == {
            f"{API}/training_runs/model_1/checkpoints/0001/archive"
        }
        with pytest.raises(InvalidInputError, match="<kind>/<name>"):
            rest.delete_checkpoint("model_1", "0001")


def test_the_form_of_checkpoint_ids_is_asked_for_once(connect_rest: Callable[..., Any]) -> None:
    def answer(call: Call) -> Answer:
        if call.path == "/profiling_status":  # by which its next release is told
            return NO_ROUTE
        return (
            as_json({"pjwt_auth_enabled": False})
            if call.path.endswith("client/config")
            else NOTHING
        )

    with answering(answer) as server:
        first, second = connect_rest(server.base_url), connect_rest(server.base_url)
        for rest in (first, second):
            with pytest.raises(UnsupportedByServer, match=r"skyrl-0\.3 has no publish"):
                rest.publish_checkpoint_from_tinker_path("tinker://model_1/sampler_weights/0001")
        assert (len(server.to("client/config")), len(server.to("/profiling_status"))) == (1, 1)


def test_only_external_weights_have_urls(
    connect_rest: Callable[..., Any], examples: Answering
) -> None:
    with pytest.raises(InvalidInputError, match="external_weights"):
        connect_rest(examples.base_url).get_external_weights_urls(PATH)


def test_a_copy_goes_to_the_configured_project(
    connect_rest: Callable[..., Any], examples: Answering
) -> None:
    connect_rest(examples.base_url, project_id="mine").copy_weights(PATH, weights_access_token="t")
    assert examples.calls[-1].json == {"source_path": PATH, "destination_project_id": "mine"}
    assert examples.calls[-1].headers["x-tinker-weights-access-token"] == "t"
    with pytest.raises(InvalidInputError, match="project"):
        connect_rest(examples.base_url, project_id=None).copy_weights(PATH)


def jwt(**claims: str) -> str:
    parts = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "none"}, claims)
    )
    return ".".join([*parts, "c2lnbmF0dXJl"])


def test_whoami_reads_the_user_from_a_jwt(
    connect_rest: Callable[..., Any], examples: Answering
) -> None:
    before = len(examples.calls)
    who = connect_rest(
        examples.base_url, api_key=jwt(sub="tml:user:ada", org_id="lab", email="ada@example.org")
    ).whoami()
    assert (who.user_urn, who.org_urn, who.email) == (
        "tml:user:ada",
        "tml:organization:lab",
        "ada@example.org",
    )
    for key in ("tml-key", "a.b.c", jwt(sub="x"), "eyJ.!!.x", None):
        with pytest.raises(InvalidInputError, match="not a JWT"):
            connect_rest(examples.base_url, api_key=key).whoami()
    assert len(examples.calls) == before, "it is no request"


def test_a_trace_is_waited_for(
    connect_rest: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = NoPause(monkeypatch)
    states = ["pending", "pending", "ready"]

    def answer(call: Call) -> Answer:
        return as_json(
            {
                "status": (state := states.pop(0)),
                "url": "https://storage/t" if state == "ready" else None,
            }
        )

    with answering(answer) as server:
        assert connect_rest(server.base_url).export_session_trace("S1") == "https://storage/t"
    assert pause.seconds == [5.0, 5.0]
    with (
        answering(lambda call: as_json({"status": "failed", "error": "no events"})) as server,
        pytest.raises(RequestFailedError, match=r"S1 is failed: no events") as caught,
    ):
        connect_rest(server.base_url).export_session_trace("S1")
    assert caught.value.operation == "export_session_trace"


def test_a_closed_client_says_so(connect_rest: Callable[..., Any], examples: Answering) -> None:
    rest = connect_rest(examples.base_url)
    rest.list_sessions()
    rest.close()
    assert "closed" in repr(rest)
    with pytest.raises(ClientClosedError):
        rest.list_sessions()


def test_closing_a_service_clients_rest_client_leaves_the_service_open(
    connect: Callable[..., Any], server: Server
) -> None:
    service = connect(server.base_url)
    with service.create_rest_client() as rest:
        assert rest.get_server_capabilities().supported_models
    with pytest.raises(ClientClosedError):
        rest.list_training_runs()
    assert service.get_server_capabilities().supported_models
    other = service.create_rest_client()
    service.close()
    with pytest.raises(ClientClosedError):
        other.list_training_runs()


def test_a_client_is_made_of_its_settings() -> None:
    with tinkex.RestClient(base_url="http://127.0.0.1:1", api_key="k") as rest:
        assert repr(rest) == "<RestClient http://127.0.0.1:1>"
    with tinkex.AdminClient(
        Config(base_url="http://127.0.0.1:1", api_key="k"), base_url="http://127.0.0.1:2"
    ) as admin:
        assert repr(admin) == "<AdminClient http://127.0.0.1:2>"


def test_runs_and_checkpoints_of_the_embedded_server(
    connect_rest: Callable[..., Any], server: Server
) -> None:
    with tinkex.ServiceClient(server.base_url, "tml-test") as service:
        trainer = service.create_lora_training_client("fake/base", rank=4)
        path = trainer.save_state("kept", ttl_seconds=3600).result().path
    rest = connect_rest(server.base_url)

    run = rest.get_training_run_by_tinker_path(path)
    assert (run.training_run_id, run.last_checkpoint.tinker_path) == (trainer.model_id, path)
    assert datetime.now(UTC) - run.last_request_time < timedelta(minutes=1)
    [kept] = rest.list_checkpoints(trainer.model_id).checkpoints
    assert timedelta(minutes=59) < kept.expires_at - kept.time <= timedelta(hours=1)
    assert rest.get_weights_info_by_tinker_path(path).lora_rank == 4
    assert trainer.model_id in [
        run.training_run_id for run in everything(rest.iter_training_runs(page_size=2))
    ]
    assert path in [
        checkpoint.tinker_path for checkpoint in everything(rest.iter_user_checkpoints(page_size=2))
    ]

    rest.delete_checkpoint_from_tinker_path(path)
    assert rest.list_checkpoints(trainer.model_id).checkpoints == []
    with pytest.raises(NotFoundError):
        rest.delete_checkpoint_from_tinker_path(path)
    with pytest.raises(NotFoundError):
        rest.get_training_run("S9:train:0")
