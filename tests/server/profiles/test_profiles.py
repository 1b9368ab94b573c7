"""The differences between each profile and the embedded server itself, on the wire."""

from __future__ import annotations

import copy
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from attrs import define, evolve, field
from starlette.routing import Route
from tinkex_proto import tinker_pb2 as pb

from tests.support.contract import CONTRACT
from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import API, new_model, sample, step
from tests.support.wait_until import wait_until
from tinkex.local import Limits, Server, serve
from tinkex_server.app.app import ROUTES
from tinkex_server.engine.interface import Example, LossResult, OnToken, SampleResult, SampleSpec
from tinkex_server.profiles import PROFILES, Profile, UnknownProfile, find_profile
from tinkex_server.profiles.profile import Rule
from tinkex_server.profiles.warped_engine import warped_logprob
from tinkex_server.wire.zstd_library import zstd

PROTOBUF = "application/x-protobuf"
OTHERS = [name for name in PROFILES if name != "tinkex"]
PROTOBUF_ONLY = ("hosted", "hosted-0.25", "skyrl-0.4", "tuft")


@define(eq=False)
class Watched(RecordingEngine):
    """A fake engine that records the whole arguments of its calls."""

    specs: list[SampleSpec] = field(factory=list)
    losses: list[str] = field(factory=list)

    def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None = None
    ) -> Future[SampleResult]:
        self.specs.append(spec)
        return super().sample(sampler_id, spec, on_token)

    def forward_backward(
        self, model_id: str, data: Any, loss_fn: str, config: Mapping[str, float], *, backward: bool
    ) -> LossResult:
        examples: list[Example] = data
        self.losses.append(loss_fn)
        return super().forward_backward(model_id, examples, loss_fn, config, backward=backward)


@define
class Wire:
    """A client that sends plain requests."""

    http: httpx.Client
    engine: Watched
    profile: Profile

    def send(self, path: str, /, **body: Any) -> httpx.Response:
        return self.http.post(f"{API}/{path}", json=body)

    def good(self, path: str, /, **body: Any) -> dict[str, Any]:
        response = self.send(path, **body)
        assert response.is_success, response.text
        return response.json()

    def poll(self, promise: Mapping[str, Any], **more: Any) -> httpx.Response:
        return self.send("retrieve_future", request_id=promise["request_id"], **more)

    def outcome(self, promise: Mapping[str, Any]) -> httpx.Response:
        """Polls until the answer is not "not yet", and returns it."""
        for _ in range(100):
            answer = self.poll(promise)
            is_json = answer.headers["content-type"] == "application/json"
            if answer.status_code != 408 and not (
                is_json and answer.json().get("type") == "try_again"
            ):
                return answer
        raise AssertionError(answer.text)

    def result(self, promise: Mapping[str, Any]) -> dict[str, Any]:
        answer = self.outcome(promise)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def session(self) -> str:
        return self.good("create_session", tags=[], user_metadata={}, sdk_version="1")["session_id"]

    def model(self, session_id: str | None = None, number: int = 0, **more: Any) -> str:
        return self.result(
            self.good("create_model", **new_model(session_id or self.session(), number, **more))
        )["model_id"]

    def batch(self, model_id: str, seq_id: int | None, *tokens: int) -> httpx.Response:
        """Sends a forward_backward in the encoding that the server reads."""
        if self.profile.bodies.json:
            return self.send("forward_backward", **step(model_id, seq_id, *tokens))
        return self.protobuf(message(model_id, seq_id, *tokens))

    def protobuf(self, body: bytes, **headers: str) -> httpx.Response:
        return self.http.post(
            f"{API}/forward_backward", content=body, headers={"content-type": PROTOBUF, **headers}
        )

    def optim(self, model_id: str, seq_id: int) -> dict[str, Any]:
        return self.good(
            "optim_step", model_id=model_id, seq_id=seq_id, adam_params={"learning_rate": 0.5}
        )

    def saved(
        self, model_id: str, seq_id: int, kind: str = "save_weights", name: str = "one"
    ) -> str:
        return self.result(self.good(kind, model_id=model_id, seq_id=seq_id, path=name))["path"]

    def sampler(self, **weights: str) -> str:
        body = {
            "session_id": self.session(),
            "sampling_session_seq_id": 0,
            **(weights or {"base_model": "fake/base"}),
        }
        answer = self.good("create_sampling_session", **body)
        return (answer if "sampling_session_id" in answer else self.result(answer))[
            "sampling_session_id"
        ]

    def sampled(
        self, *tokens: int, params: Mapping[str, Any] | None = None, **more: Any
    ) -> dict[str, Any]:
        body = sample(self.sampler(), None, *tokens, **more)
        return self.result(
            self.good(
                "asample",
                **body | {"sampling_params": {"max_tokens": 2} if params is None else params},
            )
        )


def message(
    model_id: str, seq_id: int | None, *tokens: int, loss_fn: str = "cross_entropy"
) -> bytes:
    values = np.array(tokens or (1, 2, 3))
    target = pb.Tensor(
        dense=values.astype("<i8").tobytes(), dtype=pb.DTYPE_INT64, shape=[len(values)]
    )
    chunk = pb.Chunk(encoded_text=pb.EncodedTextChunk(tokens=values.astype("<i4").tobytes()))
    datum = pb.Datum(model_input=[chunk], loss_fn_inputs={"target_tokens": target})
    return pb.ForwardBackwardRequest(
        model_id=model_id, seq_id=seq_id or 0, data=[datum], loss_fn=loss_fn
    ).SerializeToString()


@contextmanager
def started(
    profile: str | Profile, hold: float, limits: Limits | None = None
) -> Iterator[tuple[Server, Watched]]:
    """A server that has finished its start."""
    engine, value = Watched(), find_profile(profile) if isinstance(profile, str) else profile
    with serve(engine=engine, profile=profile, hold=hold, limits=limits) as server:
        for _ in range(value.starting):
            assert httpx.get(f"{server.base_url}{API}/healthz").json() == {"status": "starting"}
        yield server, engine


_shared = ExitStack()


@cache
def shared(name: str, hold: float) -> tuple[Server, Watched]:
    """One server for all tests of a profile."""
    return _shared.enter_context(started(name, hold))


@pytest.fixture(scope="module", autouse=True)
def _shared_servers() -> Iterator[None]:
    with _shared:
        yield
    shared.cache_clear()


@contextmanager
def serving(profile: str | Profile, hold: float = 0.2) -> Iterator[Wire]:
    """Returns a client of a server with this profile. A profile that is not in the table gets a
    server of its own.
    """
    with ExitStack() as own:
        server, engine = (
            shared(profile, hold)
            if isinstance(profile, str)
            else own.enter_context(started(profile, hold))
        )
        for kept in (engine.calls, engine.specs, engine.losses):
            kept.clear()
        engine.gate.clear()
        http = own.enter_context(
            httpx.Client(base_url=server.base_url, headers={"x-api-key": "tml-any"}, timeout=15)
        )
        yield Wire(http, engine, find_profile(profile) if isinstance(profile, str) else profile)


@pytest.fixture
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    """A client of the server with the profile that is the test's parameter."""
    with serving(request.param) as wire:
        yield wire


def on(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("wire", names, indirect=True)


# ---- all profiles ----


@on(*OTHERS)
def test_every_profile_trains_saves_and_samples_through_the_engine(wire: Wire) -> None:
    model_id = wire.model()
    for number in (1, 3):
        assert wire.outcome(wire.batch(model_id, number, number).json()).is_success
        assert "metrics" in wire.result(wire.optim(model_id, number + 1))
    assert wire.saved(model_id, 5)
    named = wire.saved(model_id, 6, "save_weights_for_sampler")
    done = [call[0] for call in wire.engine.calls if call[1] == model_id]
    assert done == [
        "create_model",
        *["forward_backward", "optim_step"] * 2,
        "save_model",
        "save_model",
    ]
    if "POST asample" not in wire.profile.missing:
        path = named if wire.profile.sampling.named_weights else wire.saved(model_id, 7, name="two")
        base = {"base_model": "fake/base"} if wire.profile.sampling.needs_base else {}
        body = sample(
            wire.sampler(model_path=path, **base),
            0,
            5,
            6,
            sampling_params={"max_tokens": 2, "temperature": 1.0},
        )
        assert wire.outcome(wire.good("asample", **body)).status_code == 200


def embedded_routes() -> set[str]:
    return {
        f"{method} {route.path_format}"
        for route in ROUTES
        if isinstance(route, Route)
        for method in (route.methods or ()) - {"HEAD"}
    }


def contract_routes_missing_on(name: str) -> set[str]:
    return {
        f"{method.upper()} {path}"
        for path, methods in CONTRACT["paths"].items()
        for method, operation in methods.items()
        if name in operation.get("x-tinker-missing-on", ())
    }


def test_every_route_of_the_contract_is_served() -> None:
    wanted = {
        f"{method.upper()} {path}"
        for path, methods in CONTRACT["paths"].items()
        for method in methods
    }
    assert wanted <= embedded_routes()


# tinker-cloud-old has the route, which refuses with 200 and an error.
ANSWERED_OTHERWISE = {"POST /api/v1/load_weights"}


@pytest.mark.parametrize(
    "name", [name for name in OTHERS if name not in ("skyrl-0.3", "hosted-0.25")]
)
def test_the_missing_routes_are_those_of_the_contract(name: str) -> None:
    missing = {route.replace(" ", f" {API}/", 1) for route in PROFILES[name].missing}
    expected = contract_routes_missing_on(name)
    shared = embedded_routes() - ANSWERED_OTHERWISE
    assert missing & shared == expected & shared


@on("skyrl-0.3", "tuft", "xorl")
def test_a_missing_route_is_404(wire: Wire) -> None:
    for route in wire.profile.missing:
        method, _, path = route.partition(" ")
        response = wire.http.request(method, f"{API}/{path}", json={} if method == "POST" else None)
        assert (response.status_code, response.json()) == (404, {"detail": "Not Found"}), route


@on("skyrl", "hatchery")
def test_an_archive_is_fetched_where_the_server_has_archives(wire: Wire) -> None:
    model_id = wire.model()
    wire.saved(model_id, 1)
    name = "one" if wire.profile.bare_archives else "weights/one"
    answer = wire.http.get(f"{API}/training_runs/{model_id}/checkpoints/{name}/archive")
    assert answer.status_code == 302
    assert httpx.get(answer.headers["location"]).headers["content-type"] == "application/x-tar"


@on("tuft")
def test_an_archive_of_tuft_is_a_file_of_its_own_disk(wire: Wire) -> None:
    model_id = wire.model()
    wire.saved(model_id, 1)
    answer = wire.http.get(f"{API}/training_runs/{model_id}/checkpoints/weights/one/archive")
    assert (answer.status_code, answer.headers["location"].partition("/")[0]) == (302, "file:")


@on("spindle")
def test_spindle_has_no_archives_and_says_where_it_runs(wire: Wire) -> None:
    answer = wire.http.get(f"{API}/training_runs/r/checkpoints/weights/one/archive")
    assert (answer.status_code, answer.json()) == (405, {"detail": "Method Not Allowed"})
    assert wire.http.get(f"{API}/spindle/deployments").json() == {"deployments": []}


@on("spindle")
def test_a_refused_request_takes_its_number(wire: Wire) -> None:
    model_id = wire.model()
    refused = wire.send(
        "forward_backward",
        **step(model_id, 1) | {"forward_backward_input": {"data": [], "loss_fn": "none"}},
    )
    assert refused.status_code in (400, 422)
    assert wire.send("forward_backward", **step(model_id, 1)).status_code == 409
    assert wire.outcome(wire.good("forward_backward", **step(model_id, 2))).status_code == 200


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("skyrl-0.3", {"detail": "Not Found"}),
        ("skyrl", {"detail": "Not Found"}),
        ("skyrl-0.4", {"detail": "no profiling is under way"}),
    ],
)
def test_one_route_distinguishes_releases_of_skyrl(name: str, answer: dict[str, str]) -> None:
    with serving(name) as wire:
        assert (
            wire.http.get("/profiling_status").status_code,
            wire.http.get("/profiling_status").json(),
        ) == (404, answer)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("open-rl-old", {"detail": "Not Found"}),
        ("open-rl", {"error": "unknown sampling session 'none'"}),
    ],
)
def test_one_route_distinguishes_releases_of_open_rl(name: str, answer: dict[str, str]) -> None:
    with serving(name) as wire:
        response = wire.http.get(f"{API}/samplers/none")
        assert (response.status_code, response.json()) == (404, answer)


@on("twinkle")
def test_each_answer_has_a_request_id(wire: Wire) -> None:
    answers = [
        wire.send("client/config", sdk_version="1"),
        wire.http.get(f"{API}/healthz", headers={"x-request-id": "mine"}),
    ]
    assert [answer.status_code for answer in answers] == [404, 200]
    assert answers[0].headers["x-request-id"]
    assert answers[1].headers["x-request-id"] == "mine"


@on("twinkle")
def test_a_forward_is_padded_to_the_longest_of_its_batch(wire: Wire) -> None:
    model_id = wire.model()
    data = [
        step(model_id, 1, *tokens)["forward_backward_input"]["data"][0]
        for tokens in ((1, 2, 3), (4,))
    ]
    batch = {"data": data, "loss_fn": "cross_entropy"}
    outputs = wire.result(wire.good("forward", model_id=model_id, seq_id=1, forward_input=batch))[
        "loss_fn_outputs"
    ]
    assert [len(output["logprobs"]["data"]) for output in outputs] == [3, 3]
    assert outputs[1]["logprobs"]["data"][1:] == [0.0, 0.0]


@on("open-rl")
def test_the_id_of_a_sampler_may_hold_slashes(wire: Wire) -> None:
    sampler_id = wire.sampler()
    assert "/" in sampler_id
    for written in sampler_id, sampler_id.replace("/", "%2F"):
        assert wire.http.get(f"{API}/samplers/{written}").json()["sampler_id"] == sampler_id


def test_an_unknown_profile_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(UnknownProfile, match=r"no-such.*tinkex, hosted"):
        serve(engine=RecordingEngine(), profile="no-such")


@on("verl")
def test_the_server_is_ready_after_its_start(wire: Wire) -> None:
    assert wire.http.get(f"{API}/healthz").json() == {"status": "ready"}


def test_a_server_that_starts_answers_503() -> None:
    with (
        serve(engine=RecordingEngine(), profile="verl") as server,
        httpx.Client(base_url=server.base_url) as http,
    ):
        answers = [http.post(f"{API}/create_session", json={}).status_code for _ in range(3)]
    assert answers == [503, 503, 200]


# ---- bodies ----


@pytest.mark.parametrize("name", OTHERS)
def test_a_saturated_server_says_when_to_come_again(name: str) -> None:
    with started(name, 0.2, Limits(pending=0)) as (server, _):
        headers = {"x-api-key": "tml-any"}
        with httpx.Client(base_url=f"{server.base_url}{API}/", headers=headers, timeout=15) as http:
            session = http.post(
                "create_session", json={"tags": [], "user_metadata": {}, "sdk_version": "1"}
            ).json()["session_id"]
            answer = http.post("create_model", json=new_model(session))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


@on("skyrl-0.3", "open-rl-old", "tinker-cloud-old", "xorl", "verl", "hatchery", "mlx-tinker")
def test_protobuf_kills_the_handler_where_it_is_read_as_json(wire: Wire) -> None:
    model_id = wire.model()
    assert wire.protobuf(b"plain text").status_code == 422
    # the last request, since the connection is dead after it
    response = wire.protobuf(message(model_id, 1, 200, 1000))
    assert (response.status_code, response.text) == (500, "Internal Server Error")
    assert "connection" not in response.headers
    assert wire.engine.count("forward_backward") == 0


@on("twinkle")
def test_protobuf_is_an_error_in_json_behind_a_proxy(wire: Wire) -> None:
    response = wire.protobuf(message("m", 1))
    assert (response.status_code, type(response.json()["detail"])) == (500, str)


@on(*PROTOBUF_ONLY)
def test_json_batches_are_415_where_protobuf_alone_is_read(wire: Wire) -> None:
    assert wire.send("forward_backward", **step(wire.model(), 1)).status_code == 415


@on("skyrl", "open-rl", "tinker-cloud", "miles", "arctic")
def test_both_encodings_are_read(wire: Wire) -> None:
    model_id = wire.model()
    for number, wants in ((1, PROTOBUF), (2, "application/json")):
        body = step(model_id, number, number)
        sent = (
            wire.protobuf(with_weights(message(model_id, number, number)))
            if number == 1
            else wire.send("forward_backward", **body)
        )
        assert sent.is_success, sent.text
        answer = wire.http.post(
            f"{API}/retrieve_future",
            json={"request_id": sent.json()["request_id"]},
            headers={"accept": f"{wants}, */*"},
        )
        assert answer.headers["content-type"] == wants
    assert wire.engine.count("forward_backward", model_id) == 2


def with_weights(raw: bytes) -> bytes:
    request = pb.ForwardBackwardRequest.FromString(raw)
    for datum in request.data:
        size = datum.loss_fn_inputs["target_tokens"].shape[0]
        datum.loss_fn_inputs["weights"].CopyFrom(
            pb.Tensor(dense=np.ones(size, "<f4").tobytes(), dtype=pb.DTYPE_FLOAT32, shape=[size])
        )
    return request.SerializeToString()


@on("hosted", "skyrl", "skyrl-0.4", "spindle", "tuft", "tinker-cloud", "miles")
def test_zstd_is_read(wire: Wire) -> None:
    body = zstd.compress(with_weights(message(wire.model(), 1)))
    assert wire.protobuf(body, **{"content-encoding": "zstd"}).is_success


@on("open-rl", "arctic")
def test_zstd_is_refused(wire: Wire) -> None:
    body = zstd.compress(message(wire.model(), 1))
    assert wire.protobuf(body, **{"content-encoding": "zstd"}).status_code == 415


def test_a_body_over_the_cap_is_413_also_when_compressed() -> None:
    small = evolve(PROFILES["tuft"], bodies=evolve(PROFILES["tuft"].bodies, most_bytes=300))
    with serving(small) as wire:
        body = message(wire.model(), 1, *[1] * 1000)
        packed = zstd.compress(body)
        assert len(packed) < 300
        assert wire.protobuf(body).status_code == 413
        assert wire.protobuf(packed, **{"content-encoding": "zstd"}).status_code == 413


@on("hosted", "hosted-0.25", "skyrl-0.4")
def test_results_are_protobuf_whatever_is_asked_for(wire: Wire) -> None:
    answer = wire.outcome(wire.batch(wire.model(), 1, 4, 5).json())
    assert answer.headers["content-type"] == PROTOBUF
    metrics = pb.ForwardBackwardOutput.FromString(answer.content).metrics
    assert metrics["total_loss:sum" if wire.profile.name == "skyrl-0.4" else "loss:sum"] == 9.0


@on("skyrl-0.3", "open-rl-old", "verl")
def test_results_are_json_whatever_is_asked_for(wire: Wire) -> None:
    wire.http.headers["accept"] = PROTOBUF
    answer = wire.outcome(wire.batch(wire.model(), 1).json())
    assert answer.headers["content-type"] == "application/json"


def test_a_large_result_is_announced_first() -> None:
    with serving(evolve(PROFILES["hosted"], metadata_above=50)) as wire:
        promise = wire.batch(wire.model(), 1, *range(1, 60)).json()
        size = wire.poll(promise, allow_metadata_only=True).json()
        whole = wire.poll(promise, allow_metadata_only=False)
    assert size == {"status": "complete_metadata", "response_payload_size": len(whole.content)}


STRICT = [
    ("tuft", "create_model", {"optimizer_config": {"type": "adamw"}}),
    ("tuft", "asample", {"topk_sample_logprobs": 0, "prompt_alt_tokens_k": 0}),
    ("tuft", "save_weights_for_sampler", {"kind": "snapshot"}),
    ("twinkle", "save_weights", {"overwrite": False}),
    ("twinkle", "load_weights", {"session_id": "s", "model_seq_id": 0}),
    ("twinkle", "asample", {"record_stability_info": False}),
    ("miles", "create_model", {"optimizer_config": {"type": "adamw"}}),
    ("miles", "asample", {"never_heard_of": 1}),
]


@pytest.mark.parametrize(("name", "path", "extra"), STRICT)
def test_fields_that_the_pinned_types_lack_are_422_each_by_its_place(
    name: str, path: str, extra: dict[str, Any]
) -> None:
    with serving(name) as wire:
        response = wire.send(path, **extra)
    problems = [(problem["type"], problem["loc"]) for problem in response.json()["detail"]]
    assert response.status_code == 422
    assert problems == [("extra_forbidden", ["body", key]) for key in extra]


def test_fields_as_old_as_the_pinned_types_pass() -> None:
    with serving("tuft") as wire:
        promise = wire.good(
            "save_weights",
            model_id=wire.model(),
            seq_id=1,
            path="a",
            overwrite=False,
            ttl_seconds=3600,
        )
        assert wire.result(promise)["type"] is None


# ---- keys ----

X, BEARER = "x-api-key", "authorization"


@pytest.mark.parametrize(
    ("name", "headers", "status"),
    [
        ("hosted", {}, 401),
        ("hosted", {X: "tml-other"}, 401),
        ("tuft", {}, 401),
        ("tuft", {X: "tml-other"}, 403),
        ("tuft", {BEARER: "Bearer tml-k"}, 401),
        ("tinker-cloud-old", {BEARER: "Bearer tml-k"}, 401),
        ("miles", {}, 400),
        ("miles", {BEARER: "Bearer tml-k"}, 200),
        ("miles", {X: "tml-other"}, 403),
        ("hatchery", {BEARER: "Bearer tml-k"}, 200),
        ("hatchery", {BEARER: "Bearer tml-other"}, 401),
        ("skyrl", {X: "tml-k"}, 200),
    ],
)
def test_each_profile_reads_keys_in_its_own_way(
    name: str, headers: dict[str, str], status: int
) -> None:
    with (
        serve(engine=RecordingEngine(), profile=name, api_key="tml-k") as server,
        httpx.Client(base_url=server.base_url, headers=headers) as http,
    ):
        answer = http.post(
            f"{API}/create_session", json={"tags": [], "user_metadata": {}, "sdk_version": "1"}
        )
    assert answer.status_code == status


def test_some_calls_are_open_to_all() -> None:
    with serving("tuft") as wire:
        del wire.http.headers[X]
        assert wire.http.get(f"{API}/get_server_capabilities").status_code == 200
        assert wire.send("get_info", model_id="m").status_code == 401


# ---- polls ----

PENDING: list[tuple[str, int, dict[str, Any]]] = [
    ("hosted", 408, {"type": "try_again", "queue_state": "active"}),
    ("skyrl", 408, {"detail": "Timeout waiting for result"}),
    ("skyrl-0.4", 408, {"detail": "Timeout waiting for result"}),
    ("spindle", 408, {"type": "try_again"}),
    ("open-rl", 200, {"type": "try_again"}),
    ("tuft", 200, {"type": "try_again", "queue_state": "active"}),
    (
        "tinker-cloud",
        408,
        {"error": "Future is still pending", "status_code": 408, "path": "/api/v1/retrieve_future"},
    ),
    ("xorl", 200, {"type": "try_again", "queue_state": "active"}),
    ("verl", 200, {"type": "try_again", "message": "still running"}),
    ("mlx-tinker", 200, {"type": "try_again"}),
]


@pytest.mark.parametrize(("name", "status", "body"), PENDING)
def test_a_pending_request(name: str, status: int, body: dict[str, Any]) -> None:
    with serving(name, hold=0.01) as wire:
        promise = wire.batch(wire.model(), 1, 96).json()
        answer = wire.poll(promise)
        wire.engine.gate.set()
    seen = answer.json()
    assert (answer.status_code, seen.pop("request_id", promise["request_id"])) == (
        status,
        promise["request_id"],
    )
    assert seen == body


FAILED: list[tuple[str, int, tuple[int, dict[str, Any]]]] = [
    ("hosted", 99, (200, {"error": "TEXT", "category": "user"})),
    ("skyrl-0.3", 99, (400, {"detail": "TEXT"})),
    ("skyrl-0.3", 98, (500, {"detail": "Unknown error"})),
    ("skyrl", 98, (400, {"detail": "TEXT"})),
    ("spindle", 99, (200, {"error": "TEXT", "category": "user"})),
    ("open-rl-old", 99, (400, {"type": "RequestFailedResponse", "error_message": "TEXT"})),
    ("tuft", 99, (404, {"detail": "TEXT"})),  # or 400, 403, 409
    ("tuft", 98, (422, {"detail": "TEXT"})),
    (
        "tinker-cloud",
        99,
        (400, {"error": "TEXT", "status_code": 400, "path": "/api/v1/retrieve_future"}),
    ),
    ("twinkle", 99, (200, {"error": "TEXT", "category": "User"})),
    ("twinkle", 98, (200, {"error": "TEXT", "category": "Server"})),
    ("miles", 98, (200, {"error": "TEXT", "category": "server"})),
    ("verl", 99, (200, {"error": "TEXT", "category": "Application"})),
    ("hatchery", 99, (200, {"type": "request_failed", "error": "TEXT", "category": "user_error"})),
    ("mlx-tinker", 98, (200, {"error": "TEXT", "category": "execution_error"})),
]
TEXTS = {
    99: "token 99 is not a token",
    98: "forward_backward failed in the server: ZeroDivisionError: the fake broke",
}


@pytest.mark.parametrize(("name", "token", "expected"), FAILED)
def test_a_failed_request(name: str, token: int, expected: tuple[int, dict[str, Any]]) -> None:
    with serving(name) as wire:
        answer = wire.outcome(wire.batch(wire.model(), 1, token).json())
    body = {key: TEXTS[token] if value == "TEXT" else value for key, value in expected[1].items()}
    assert (answer.status_code, answer.json()) == (expected[0], body)


@pytest.mark.parametrize(("token", "status"), [(99, 400), (98, 500)])
@on("arctic")
def test_work_in_the_post_fails_there(wire: Wire, token: int, status: int) -> None:
    answer = wire.batch(wire.model(), 1, token)
    assert (answer.status_code, answer.json()) == (status, {"detail": TEXTS[token]})


UNKNOWN: list[tuple[str, int, dict[str, Any]]] = [
    ("skyrl", 404, {"detail": "Future not found"}),
    ("open-rl", 200, {"type": "try_again", "request_id": "no-such"}),
    (
        "tinker-cloud-old",
        404,
        {"error": "Future not found", "status_code": 404, "path": "/api/v1/retrieve_future"},
    ),
    ("twinkle", 200, {"type": "try_again", "request_id": "no-such", "queue_state": "active"}),
    ("miles", 410, {"detail": "Unknown or expired request"}),
    ("spindle", 410, {"error": "request_lost"}),
    ("verl", 200, {"error": "unknown request_id", "category": "Application", "seen_before": True}),
    ("arctic", 200, {"type": "try_again", "request_id": "no-such"}),
]


@pytest.mark.parametrize(("name", "status", "body"), UNKNOWN)
def test_an_unknown_request(name: str, status: int, body: dict[str, Any]) -> None:
    with serving(name, hold=0.01) as wire:
        answer = wire.send("retrieve_future", request_id="no-such")
    assert (answer.status_code, answer.json()) == (status, body)


@on("verl", "arctic")
def test_a_result_is_given_once(wire: Wire) -> None:
    promise = wire.batch(wire.model(), 1).json()
    wire.result(promise)
    again = wire.poll(promise).json()
    assert again.get("seen_before") or again["type"] == "try_again"


def test_a_waiting_poll_is_answered_not_yet_once_more() -> None:
    with (
        serving("verl", hold=10) as wire,
        socket.create_connection((wire.http.base_url.host, wire.http.base_url.port or 0)) as poll,
    ):
        promise = wire.batch(wire.model(), 1, 96).json()
        request = wire.http.build_request(
            "POST", f"{API}/retrieve_future", json={"request_id": promise["request_id"]}
        )
        head = "".join(
            f"{name}: {value}\r\n"
            for name, value in request.headers.items()
            if name != "connection"
        )
        poll.sendall(
            f"POST {request.url.path} HTTP/1.1\r\n{head}connection: close\r\n\r\n".encode()
            + request.read()
        )
        for _ in range(3):  # round trips; after that the poll waits
            wire.http.get(f"{API}/healthz")
        wire.engine.gate.set()
        assert b'"still running"' in poll.makefile("rb").readlines()[-1]
        assert "metrics" in wire.poll(promise).json()


# ---- seq_ids ----


@on(
    "skyrl-0.3",
    "open-rl-old",
    "open-rl",
    "tinker-cloud-old",
    "twinkle",
    "verl",
    "arctic",
    "mlx-tinker",
)
def test_a_repeated_number_is_applied_twice(wire: Wire) -> None:
    model_id = wire.model()
    first, second = (wire.batch(model_id, 1).json() for _ in range(2))
    assert first["request_id"] != second["request_id"]
    wire.outcome(second)
    assert wire.engine.count("forward_backward", model_id) == 2


@on("hatchery")
def test_a_repeated_number_gives_the_first_promise_and_is_applied_twice(wire: Wire) -> None:
    model_id = wire.model()
    first, second = (wire.batch(model_id, 1).json() for _ in range(2))
    assert first == second
    wire.outcome(second)  # which may come before it is applied again
    wait_until(lambda: wire.engine.count("forward_backward", model_id) == 2)


@on("hosted", "hosted-0.25", "skyrl", "miles")
def test_a_repeated_number_gives_the_first_promise(wire: Wire) -> None:
    model_id = wire.model()
    first, second = (wire.batch(model_id, 1).json() for _ in range(2))
    assert first == second
    wire.outcome(second)
    assert wire.engine.count("forward_backward", model_id) == 1


@on("skyrl")
def test_a_number_for_another_body_is_409_and_numbers_do_not_order(wire: Wire) -> None:
    model_id = wire.model()
    late = wire.batch(model_id, 7, 7).json()
    assert wire.batch(model_id, 7, 8).status_code == 409
    assert wire.outcome(late).status_code == 200


@on("hatchery")
def test_each_operation_has_numbers_of_its_own(wire: Wire) -> None:
    model_id = wire.model()
    batch, optim = wire.batch(model_id, 1).json(), wire.optim(model_id, 1)
    assert batch["request_id"] != optim["request_id"]
    assert "metrics" in wire.result(optim)


@on("miles")
def test_a_sequence_number_is_required(wire: Wire) -> None:
    answer = wire.send("optim_step", model_id=wire.model(), adam_params={})
    assert (answer.status_code, answer.json()) == (400, {"detail": "seq_id is missing"})


@on("tuft")
def test_out_of_turn_fails_and_a_failed_step_does_not_count(wire: Wire) -> None:
    model_id = wire.model()

    def outcome(number: int | None, token: int = 1) -> tuple[int, object]:
        promised = wire.batch(model_id, number, token)
        assert promised.status_code == 202
        answer = wire.outcome(promised.json())
        return answer.status_code, answer.json().get("detail")

    assert outcome(2) == (409, "expected 1, got 2")
    assert outcome(1)[0] == 200
    assert outcome(1) == (409, "expected 2, got 1")
    assert outcome(2, token=98)[0] == 422
    assert outcome(3) == (409, "expected 2, got 3")
    assert outcome(None)[0] == 200
    assert outcome(2)[0] == 200


@on("tuft")
def test_an_unknown_model_is_refused_by_the_future(wire: Wire) -> None:
    promised = wire.batch("no-such", 1)
    assert promised.status_code == 202
    assert wire.outcome(promised.json()).status_code == 404


# ---- promises and answers ----


@on("skyrl-0.3")
def test_promises_and_ids_of_the_json_server(wire: Wire) -> None:
    promise = wire.good("create_model", **new_model(wire.session()))
    assert (promise["future_id"], promise["base_model"], promise["lora_config"]) == (
        promise["request_id"],
        "fake/base",
        {"rank": 4},
    )
    assert promise["request_id"].isdecimal()
    model_id = wire.result(promise)["model_id"]
    assert ":" not in model_id
    assert set(wire.good("get_info", model_id=model_id)) == {"model_id", "status", "model_data"}
    batch = wire.result(wire.batch(model_id, 1).json())
    assert batch["metrics"] == {}
    assert set(wire.result(wire.optim(model_id, 2))["metrics"]) == {
        "skyrl.ai/grad_norm",
        "skyrl.ai/learning_rate",
    }


@pytest.mark.parametrize("name", [name for name in OTHERS if name != "xorl"])
def test_the_ids_of_the_samples_to_come(name: str) -> None:
    with serving(
        evolve(
            PROFILES[name],
            sampling=evolve(PROFILES[name].sampling, base_models=True, base_session=None),
        )
    ) as wire:
        promise = wire.good("asample", **sample(wire.sampler(), 0))
    assert ("sample_sequence_ids" in promise) == (
        name in ("hosted", "open-rl", "tinker-cloud", "miles", "spindle")
    )


@on("open-rl-old")
def test_all_clients_share_one_session_and_have_models_of_their_own(wire: Wire) -> None:
    assert {wire.session(), wire.session()} == {"sess-real-123"}
    promise = wire.good("create_model", **new_model("sess-real-123"))
    assert promise["request_id"] == promise["model_id"]
    first = wire.result(promise)["model_id"]
    second = wire.model("sess-real-123")
    assert first != second
    assert wire.good("get_info", model_id=second)["lora_rank"] == 16


@pytest.mark.parametrize(
    ("name", "path", "status"),
    [
        ("tuft", "create_session", 201),
        ("tuft", "create_sampling_session", 201),
        ("tuft", "create_model", 202),
    ],
)
def test_each_profile_answers_with_its_own_statuses(name: str, path: str, status: int) -> None:
    with serving(name) as wire:
        session = {"tags": [], "user_metadata": {}, "sdk_version": "1"}
        sampler = {
            "session_id": wire.session(),
            "sampling_session_seq_id": 0,
            "base_model": "fake/base",
        }
        bodies: dict[str, dict[str, Any]] = {
            "create_session": session,
            "create_sampling_session": sampler,
            "create_model": new_model(wire.session()),
        }
        assert wire.send(path, **bodies[path]).status_code == status


@on("open-rl")
def test_refusals_have_an_error_and_no_detail(wire: Wire) -> None:
    assert list(wire.send("get_info", model_id="no-such").json()) == ["error"]


@on("tinker-cloud-old")
def test_refusals_name_status_and_path(wire: Wire) -> None:
    body = wire.send("get_info", model_id="no-such").json()
    assert (body["status_code"], body["path"], type(body["error"])) == (
        404,
        "/api/v1/get_info",
        str,
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hosted-0.25", {"create_model_via_load_weights": True}),
        ("skyrl", {"pjwt_auth_enabled": False}),
        ("tuft", {"parallel_fwdbwd_chunks": False}),
        ("tinker-cloud", {"proto_compress_fwdbwd": True, "sample_use_retrieve_futures": True}),
        ("verl", {"sample_dispatch_bytes_semaphore_size": 0}),
        ("arctic", {"proto_write_fwdbwd": False}),
        ("hatchery", {"default_poll_interval_ms": 1000}),
    ],
)
def test_each_profile_returns_its_own_client_config(name: str, expected: dict[str, Any]) -> None:
    with serving(name) as wire:
        flags = wire.good("client/config", sdk_version="1")
    assert expected.items() <= flags.items()
    assert not {"seq_id_repeats", "reports_state_loss"} & flags.keys()


@on("tinker-cloud-old", "tinker-cloud")
def test_a_server_without_lora_says_so(wire: Wire) -> None:
    model_id = wire.model()
    info = wire.good("get_info", model_id=model_id)
    assert (info["is_lora"], info["lora_rank"]) == (False, None)
    assert wire.good("weights_info", tinker_path=wire.saved(model_id, 1))["lora_rank"] is None


@on("hatchery")
def test_hatchery_has_calls_of_its_own(wire: Wire) -> None:
    session_id = wire.session()
    promise = wire.good(
        "create_sampling_session",
        session_id=session_id,
        sampling_session_seq_id=0,
        base_model="fake/base",
    )
    assert (promise["operation"], "sampling_session_id" in promise) == (
        "create_sampling_session",
        False,
    )
    assert wire.result(promise)["sampling_session_id"]
    assert wire.send("create_model", **new_model(session_id, user_metadata=None)).status_code == 422
    model_id = wire.model(session_id)
    assert wire.send("unload_model", model_id=model_id).status_code == 422
    assert wire.http.post(f"{API}/unload_model", params={"model_id": model_id}).status_code == 200
    [model] = wire.http.get(f"{API}/get_server_capabilities").json()["supported_models"]
    assert "model_name" not in model


# ---- weights ----


@pytest.mark.parametrize(
    ("name", "begin", "middle"),
    [
        ("open-rl-old", "/", "/weights/one"),
        ("open-rl", "/", "/weights/one"),
        ("twinkle", "twinkle://", "/weights/one"),
        ("hatchery", "tinker://", "/checkpoints/one"),
        ("tuft", "tinker://", "/weights/one"),
    ],
)
def test_paths_are_written_and_read_in_the_server_s_own_way(
    name: str, begin: str, middle: str
) -> None:
    with serving(name) as wire:
        asked = {"include_optimizer": True} if wire.profile.loading.optimizer_if_saved else {}
        saving = wire.good("save_weights", model_id=wire.model(), seq_id=1, path="one", **asked)
        path = wire.result(saving)["path"]
        other = wire.model()
        loaded = wire.result(
            wire.good("load_weights", model_id=other, seq_id=1, path=path, optimizer=True)
        )
    assert path.startswith(begin)
    assert path.endswith(middle)
    assert loaded["path"] == path
    assert wire.engine.count("load_model", other, "with optimizer") == 1


@pytest.mark.parametrize("name", ["open-rl-old", "open-rl"])
def test_a_save_has_the_optimizer_s_state_if_asked_also_after_a_restart(
    name: str, tmp_path: Path
) -> None:
    @contextmanager
    def lasting() -> Iterator[Wire]:
        engine, key = Watched(), {"x-api-key": "tml-any"}
        with (
            serve(engine=engine, profile=name, data_dir=tmp_path, hold=0.2) as server,
            httpx.Client(base_url=server.base_url, headers=key, timeout=15) as http,
        ):
            yield Wire(http, engine, find_profile(name))

    def loads(wire: Wire, path: str) -> dict[str, int]:
        model_id = wire.model()
        sent = {"model_id": model_id, "seq_id": 1, "path": path, "optimizer": True}
        assert wire.result(wire.good("load_weights", **sent))["path"] == path
        ways = ("with optimizer", "without optimizer")
        return {way: wire.engine.count("load_model", model_id, way) for way in ways}

    asked = {"path": "one", "include_optimizer": True}
    with lasting() as wire:
        without = wire.saved(wire.model(), 1)
        saving = wire.good("save_weights", model_id=wire.model(), seq_id=1, **asked)
        with_state = wire.result(saving)["path"]
        assert loads(wire, without) == {"with optimizer": 0, "without optimizer": 1}
        assert loads(wire, with_state) == {"with optimizer": 1, "without optimizer": 0}
    with lasting() as wire:
        assert loads(wire, with_state) == {"with optimizer": 1, "without optimizer": 0}


@on("open-rl-old")
def test_other_forms_of_paths_are_refused(wire: Wire) -> None:
    answer = wire.send(
        "load_weights",
        model_id=wire.model(),
        seq_id=1,
        path="tinker://x/weights/one",
        optimizer=True,
    )
    assert answer.status_code == 400


@on("twinkle")
def test_the_name_of_sampler_weights_is_ignored(wire: Wire) -> None:
    assert "mine" not in wire.saved(wire.model(), 1, "save_weights_for_sampler", "mine")


@pytest.mark.parametrize(
    ("name", "path"), [("miles", True), ("open-rl", True), ("tuft", None), ("tinker-cloud", None)]
)
def test_the_path_of_ephemeral_weights(name: str, path: bool | None) -> None:
    with serving(name) as wire:
        promise = wire.good(
            "save_weights_for_sampler", model_id=wire.model(), seq_id=1, sampling_session_seq_id=0
        )
        result = wire.result(promise)
    assert result["sampling_session_id"]
    assert bool(result.get("path")) == bool(path)


@pytest.mark.parametrize(
    ("name", "status"),
    [("skyrl", 422), ("skyrl-0.3", 422), ("open-rl-old", 400), ("open-rl", 422), ("miles", 400)],
)
def test_no_model_is_made_by_a_load(name: str, status: int) -> None:
    with serving(name) as wire:
        path = wire.saved(wire.model(), 1)
        body = {"session_id": wire.session(), "model_seq_id": 1, "path": path, "optimizer": True}
        assert wire.send("load_weights", **body).status_code == status


@on("tuft")
def test_a_load_by_session_is_400(wire: Wire) -> None:
    path = wire.saved(wire.model(), 1)
    body = {"session_id": wire.session(), "model_seq_id": 1, "path": path, "optimizer": True}
    assert (wire.send("load_weights", **body).json()) == {"detail": "Missing model_id"}


@on("hosted", "hosted-0.25")
def test_a_model_is_made_by_a_load(wire: Wire) -> None:
    session_id = wire.session()
    path = wire.saved(wire.model(session_id, 0), 1)
    promise = wire.good(
        "load_weights", session_id=session_id, model_seq_id=1, path=path, optimizer=True
    )
    assert wire.result(promise)["model_id"] == f"{session_id}:train:1"


@on("hosted", "skyrl")
def test_a_load_is_the_model_s_first_request_or_400(wire: Wire) -> None:
    path, other = wire.saved(wire.model(), 1), wire.model()
    wire.outcome(wire.batch(other, 1).json())
    answer = wire.send("load_weights", model_id=other, seq_id=2, path=path, optimizer=True)
    assert answer.status_code == 400
    assert "not permitted with seq_id 2" in answer.json()["detail"]


@on("skyrl-0.3")
def test_the_optimizer_is_always_loaded(wire: Wire) -> None:
    path, other = wire.saved(wire.model(), 1), wire.model()
    wire.result(wire.good("load_weights", model_id=other, path=path, optimizer=False))
    assert wire.engine.count("load_model", other, "with optimizer") == 1


@on("tinker-cloud-old")
def test_a_model_is_made_from_a_checkpoint_by_create_model_alone(wire: Wire) -> None:
    path, session_id = wire.saved(wire.model(), 1), wire.session()
    refused = wire.good("load_weights", model_id="m", seq_id=1, path=path, optimizer=True)
    assert {"error", "reason"} == set(refused)
    other = wire.model(session_id, 1, checkpoint_path=path)
    assert wire.engine.count("load_model", other, "with optimizer") == 1


@pytest.mark.parametrize("name", ["tuft", "hatchery"])
def test_a_missing_checkpoint_is_404(name: str) -> None:
    with serving(name) as wire:
        model_id = wire.model()
        gone = wire.saved(model_id, 1).replace("one", "none")
        answer = wire.send("load_weights", model_id=model_id, seq_id=2, path=gone, optimizer=True)
        assert (answer if name == "hatchery" else wire.outcome(answer.json())).status_code == 404


# ---- losses and data ----


def with_loss(model_id: str, loss_fn: str, copies: int = 1, **inputs: Any) -> dict[str, Any]:
    body = step(model_id, None)
    batch = body["forward_backward_input"]
    batch["loss_fn"] = loss_fn
    batch["data"] *= copies
    for datum in batch["data"]:
        datum["loss_fn_inputs"] = {**datum["loss_fn_inputs"], **inputs}
    return body


@pytest.mark.parametrize(
    ("sent", "trained"),
    [
        ("cross_entropy", "cross_entropy"),
        ("importance_sampling", "ppo"),
        ("ppo", "cross_entropy"),
        ("dro", "cross_entropy"),
    ],
)
@on("twinkle")
def test_other_losses_are_replaced_without_a_warning(wire: Wire, sent: str, trained: str) -> None:
    wire.result(wire.good("forward_backward", **with_loss(wire.model(), sent, 2)))
    assert wire.engine.losses == [trained]


@on("twinkle")
def test_importance_sampling_wants_an_even_batch_of_those_with_a_bearer(wire: Wire) -> None:
    body = with_loss(wire.model(), "importance_sampling", 3)
    assert "metrics" in wire.result(wire.good("forward_backward", **body))
    wire.http.headers[BEARER] = "Bearer tml-any"
    assert wire.result(wire.good("forward_backward", **body))["category"] == "User"


@on("twinkle")
def test_a_step_without_a_gradient_fails(wire: Wire) -> None:
    model_id = wire.model()
    assert wire.result(wire.optim(model_id, 1))["category"] == "Server"
    wire.batch(model_id, 2)
    assert "metrics" in wire.result(wire.optim(model_id, 3))
    assert "error" in wire.result(wire.optim(model_id, 4))


@pytest.mark.parametrize(
    ("name", "status"),
    [("twinkle", 422), ("hatchery", 400), ("skyrl", 422), ("miles", 400), ("verl", 400)],
)
def test_an_unknown_loss_is_refused_by_the_post(name: str, status: int) -> None:
    with serving(name) as wire:
        assert (
            wire.send(
                "forward_backward", **with_loss(wire.model(), "nonsense") | {"seq_id": 1}
            ).status_code
            == status
        )


@on("tuft")
def test_an_unknown_loss_is_422_in_protobuf_too(wire: Wire) -> None:
    assert wire.protobuf(message(wire.model(), 1, loss_fn="nonsense")).status_code == 422


ONE = {"data": [1.0] * 3, "dtype": "float32"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda datum: datum["loss_fn_inputs"].pop("weights"), "weights"),
        (lambda datum: datum["loss_fn_inputs"].update(advantages=ONE), "advantages"),
        (
            lambda datum: datum["loss_fn_inputs"]["target_tokens"].update(shape=[1, 3]),
            "one-dimensional",
        ),
    ],
)
@on("miles")
def test_batches_are_read_strictly(wire: Wire, change: Any, words: str) -> None:
    body = step(wire.model(), 1)
    change(body["forward_backward_input"]["data"][0])
    answer = wire.send("forward_backward", **body)
    assert (answer.status_code, words in answer.json()["detail"]) == (400, True)


@on("miles")
def test_limits_and_what_is_not_supported(wire: Wire) -> None:
    model_id = wire.model()
    assert (
        wire.send(
            "forward_backward", **with_loss(model_id, "cross_entropy", 1025) | {"seq_id": 1}
        ).status_code
        == 400
    )
    assert wire.send("asample", **sample(wire.sampler(), 0, num_samples=65)).status_code == 400
    seeded = {**new_model(wire.session()), "lora_config": {"rank": 4, "seed": 1}}
    assert wire.send("create_model", **seeded).status_code == 400
    assert (
        wire.send(
            "save_weights", model_id=model_id, seq_id=1, path="a", ttl_seconds=3600
        ).status_code
        == 400
    )


@on("open-rl", "mlx-tinker")
def test_weights_are_ones_where_they_are_missing(wire: Wire) -> None:
    body = step(wire.model(), 1)
    del body["forward_backward_input"]["data"][0]["loss_fn_inputs"]["weights"]
    assert "metrics" in wire.result(wire.good("forward_backward", **body))


@on("skyrl-0.3", "verl")
def test_forward_only_in_json_is_ignored_so_it_trains(wire: Wire) -> None:
    model_id = wire.model()
    wire.outcome(wire.good("forward_backward", **step(model_id, 1), forward_only=True))
    assert wire.engine.count("forward_backward", model_id) == 1


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("twinkle", {"loss:avg": 3.0}),
        ("hatchery", {"loss:mean": 3.0, "step": 0}),
        ("skyrl", {"total_loss:sum": 9.0, "pg_loss:last": 3.0}),
    ],
)
def test_each_profile_returns_its_own_metrics(name: str, metrics: dict[str, float]) -> None:
    with serving(name) as wire:
        assert wire.result(wire.batch(wire.model(), 1, 2, 3, 4).json())["metrics"] == metrics


@on("tuft")
def test_an_optimizer_step_has_no_metrics(wire: Wire) -> None:
    assert wire.result(wire.optim(wire.model(), 1)) == {"metrics": None}


# ---- sampling ----


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tinker-cloud-old", {"temperature": 0.7, "top_p": 0.9, "top_k": 50, "max_tokens": 256}),
        ("twinkle", {"max_tokens": 256}),
        ("hatchery", {"temperature": 0.0, "top_k": 50}),
    ],
)
def test_missing_sampling_parameters_have_the_servers_own_defaults(
    name: str, expected: dict[str, float]
) -> None:
    with serving(name) as wire:
        wire.sampled(params={})
        spec = wire.engine.specs[0]
    assert {key: getattr(spec, key) for key in expected} == expected


@on("twinkle")
def test_zero_temperature_is_one_and_the_seed_is_dropped(wire: Wire) -> None:
    wire.sampled(params={"temperature": 0, "seed": 7})
    assert (wire.engine.specs[0].temperature, wire.engine.specs[0].seed) == (1.0, None)


@on("open-rl-old")
def test_open_rl_old_samples_in_its_own_way(wire: Wire) -> None:
    sampler_id = wire.sampler(model_path=wire.saved(wire.model(), 1, "save_weights_for_sampler"))
    chunks = [{"type": "encoded_text", "tokens": [5, 6]}, {"type": "encoded_text", "tokens": [7]}]
    body = sample(sampler_id, 0) | {
        "prompt": {"chunks": chunks},
        "sampling_params": {"seed": 3},
        "prompt_logprobs": True,
    }
    result = wire.result(wire.good("asample", **body))
    spec = wire.engine.specs[-1]
    assert (spec.prompt, spec.seed, spec.max_tokens, spec.prompt_logprobs) == (
        [5, 6],
        None,
        20,
        False,
    )
    assert result.get("prompt_logprobs") is None
    assert result["sequences"][0]["stop_reason"] == "stop"


@on("open-rl-old", "tinker-cloud")
def test_base_models_cannot_be_sampled(wire: Wire) -> None:
    answer = wire.send("asample", **sample(wire.sampler(), 0))
    assert answer.status_code == 400
    assert "not found" in (answer.json().get("detail") or answer.json()["error"])


@pytest.mark.parametrize(
    ("name", "params", "status"),
    [
        ("skyrl", {"temperature": 1.0}, 422),
        ("skyrl", {"max_tokens": 2, "stop": "x"}, 422),
        ("skyrl", {"max_tokens": 2, "stop": ["x"]}, 200),
        ("tinker-cloud-old", {"max_tokens": 4097}, 400),
        ("hatchery", {"max_tokens": 2, "top_k": 1001}, 422),
        ("arctic", {"max_tokens": 2, "temperature": 0.5}, 400),
    ],
)
def test_sampling_parameters_that_are_refused(
    name: str, params: dict[str, Any], status: int
) -> None:
    with serving(name) as wire:
        answer = wire.send("asample", **sample(wire.sampler(), 0) | {"sampling_params": params})
    assert answer.status_code == status, answer.text


@on("skyrl", "skyrl-0.3")
def test_prompt_logprobs_are_one_shorter(wire: Wire) -> None:
    assert wire.sampled(5, 6, 7, prompt_logprobs=True)["prompt_logprobs"] == [-1.0, -1.0]


@on("hatchery")
def test_named_sampler_weights_kill_the_handler(wire: Wire) -> None:
    path = wire.saved(wire.model(), 1, "save_weights_for_sampler")
    body = {"session_id": wire.session(), "sampling_session_seq_id": 0, "model_path": path}
    assert wire.send("create_sampling_session", **body).status_code == 500


@on("hatchery")
def test_logprobs_are_of_what_was_sampled_from(wire: Wire) -> None:
    """The fake engine knows one likely token, which is then certain."""
    result = wire.sampled(5, 6, num_samples=2)
    assert [sequence["logprobs"] for sequence in result["sequences"]] == [[0.0, 0.0]] * 2


def test_warped_logprobs() -> None:
    logprobs = {1: np.log(0.4), 2: np.log(0.3), 3: np.log(0.1)}
    assert warped_logprob(logprobs, 2, 1.0, 1.0) == pytest.approx(np.log(0.3 / 0.8))
    assert warped_logprob(logprobs, 1, 1.0, 0.6) == pytest.approx(np.log(0.4 / 0.7))
    assert warped_logprob(logprobs, 1, 0.5, 1.0) == pytest.approx(np.log(0.16 / 0.26))


@on("skyrl", "arctic")
def test_rank_0_trains_what_it_can(wire: Wire) -> None:
    promise = wire.good("create_model", **{**new_model(wire.session()), "lora_config": {"rank": 0}})
    assert wire.result(promise)["model_id"]


def cut(model_id: str) -> bytes:
    return b'{"model_id": "%s", "seq_id": 2, "adam_params": {"learning_rate": ' % model_id.encode()


@pytest.mark.parametrize("key", [None, "tml-key"])
@pytest.mark.parametrize(
    "name", [name for name in PROFILES if PROFILES[name].seq_ids.turn == "by number"]
)
def test_an_unreadable_request_frees_its_sequence_number(name: str, key: str | None) -> None:
    engine, profile = Watched(), PROFILES[name]
    with serve(engine=engine, profile=name, hold=5, api_key=key or ()) as server:
        headers = {"x-api-key": key or "tml-any", "authorization": f"Bearer {key or 'tml-any'}"}
        with httpx.Client(base_url=server.base_url, timeout=15, headers=headers) as http:
            for _ in range(profile.starting):
                http.get(f"{API}/healthz")
            wire = Wire(http, engine, profile)
            model_id = wire.model()
            first, early = wire.batch(model_id, 1, 11), wire.batch(model_id, 3, 33)
            stranger = httpx.post(
                f"{server.base_url}{API}/optim_step",
                content=cut(model_id),
                headers={"x-api-key": "tml-other"},
            )
            refused = http.post(
                f"{API}/optim_step",
                content=cut(model_id),
                headers={"content-type": "application/json"},
            )
            assert 400 <= refused.status_code < 500, refused.text
            assert not key or stranger.status_code in (401, 403)
            for promise in (first.json(), early.json()):
                assert wire.outcome(promise).status_code == 200
            assert [call[2] for call in engine.calls if call[0] == "forward_backward"] == [
                "11",
                "33",
            ]


def test_a_refused_request_frees_its_sequence_number() -> None:
    rule = Rule(operations=["optim_step"], field="adam_params.grad_clip_norm", absent=True)
    key = {"x-api-key": "tml-key"}
    with (
        started(evolve(PROFILES["hosted"], rules=[rule]), 5) as (server, engine),
        httpx.Client(base_url=server.base_url, timeout=15, headers=key) as http,
    ):
        wire = Wire(http, engine, PROFILES["hosted"])
        model_id = wire.model()
        first, early = wire.batch(model_id, 1, 11), wire.batch(model_id, 3, 33)
        params = {"learning_rate": 1e-4, "grad_clip_norm": 1.0}
        assert (
            wire.send("optim_step", model_id=model_id, seq_id=2, adam_params=params).status_code
            == 400
        )
        assert all(wire.outcome(promise.json()).status_code == 200 for promise in (first, early))


def spots(value: Any, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yields the place of each field of a body, and of the first item of each list."""
    is_list = isinstance(value, list)
    entries = enumerate(value[:1]) if is_list else getattr(value, "items", list)()
    for key, entry in entries:
        yield (*above, key)
        yield from spots(entry, (*above, key))


def damaged(body: dict[str, Any], spot: tuple[str | int, ...]) -> list[dict[str, Any]]:
    """Returns the body without this field, and with a list of lists in its place."""
    without, mistyped = copy.deepcopy(body), copy.deepcopy(body)
    del holder_of(without, spot)[spot[-1]]
    holder_of(mistyped, spot)[spot[-1]] = [[1]]
    return [without, mistyped]


def holder_of(body: dict[str, Any], spot: tuple[str | int, ...]) -> Any:
    holder: Any = body
    for key in spot[:-1]:
        holder = holder[key]
    return holder


def whole_bodies(model_id: str, session_id: str) -> dict[str, dict[str, Any]]:
    """Returns a body for each operation of which a profile reads fields."""
    numbered = {"model_id": model_id, "seq_id": 1}
    path = f"tinker://{model_id}/weights/a"
    params = {"max_tokens": 2, "temperature": 1.0, "top_k": -1, "top_p": 1.0}
    return {
        "create_model": {**new_model(session_id, 1), "checkpoint_path": path},
        "forward_backward": step(model_id, 1),
        "optim_step": {**numbered, "adam_params": {"learning_rate": 0.1}},
        "save_weights": {**numbered, "path": "a", "ttl_seconds": 60, "overwrite": True},
        "save_weights_for_sampler": {**numbered, "path": "a"},
        "load_weights": {**numbered, "path": path, "optimizer": True},
        "create_sampling_session": {
            "session_id": session_id,
            "sampling_session_seq_id": 0,
            "base_model": "fake/base",
            "model_path": path,
        },
        "asample": {
            **sample("none", 1, num_samples=1, base_model="fake/base"),
            "sampling_params": params,
        },
        "unload_model": {"model_id": model_id},
    }


@pytest.mark.parametrize("profile", OTHERS)
def test_no_body_makes_a_server_fail_by_a_missing_or_mistyped_field(profile: str) -> None:
    with serving(profile) as wire:
        bodies = whole_bodies("none", wire.session())
        wrong = {
            (operation, spot, answer.status_code)
            for operation, body in bodies.items()
            for spot in spots(body)
            for damage in damaged(body, spot)
            if (answer := wire.send(operation, **damage)).status_code >= 500
        }
    assert not wrong


@on("hatchery", "open-rl", "open-rl-old", "tuft")
def test_a_load_without_a_path_is_refused_by_name(wire: Wire) -> None:
    answer = wire.send("load_weights", model_id=wire.model(), seq_id=1)
    assert answer.status_code == 422
    assert "path" in answer.text
    assert "is missing" in answer.text
