"""Every way in which the embedded server turns down any request is in the contract, for each
operation that it can happen to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from attrs import evolve, frozen

from tests.support.contract import CONTRACT
from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import new_model, sample, started, step
from tinkex.local import Limits, serve

_MOST = 1000  # bytes of a body


@frozen
class Operation:
    """One of the contract."""

    name: str
    method: str
    path: str
    has_body: bool
    statuses: frozenset[str]

    def send(self, http: httpx.Client, **how: Any) -> int:
        """The status of the answer, which must be one that the contract lists for the operation."""
        path = self.path
        for part in ("session_id", "run_id", "sampler_id", "name"):
            path = path.replace(f"{{{part}}}", "nothing")
        response = http.request(self.method, path.replace("{kind}", "weights"), **how)
        listed = (
            str(response.status_code) in self.statuses
            or f"{response.status_code // 100}XX" in self.statuses
        )
        assert listed, (
            f"{self.name} answers {response.status_code}, which the contract does not list: "
            f"{response.text}"
        )
        return response.status_code


OPERATIONS = [
    Operation(
        operation["operationId"],
        method,
        path,
        "requestBody" in operation,
        frozenset(map(str, operation["responses"])),
    )
    for path, methods in CONTRACT["paths"].items()
    for method, operation in methods.items()
]
SECURED = [operation for operation in OPERATIONS if operation.name != "health"]
WITH_BODY = [operation for operation in OPERATIONS if operation.has_body]


def each(operations: list[Operation]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("operation", operations, ids=lambda operation: operation.name)


@pytest.fixture(scope="module")
def guarded() -> Iterator[httpx.Client]:
    """A client with the key of a server that takes but small bodies."""
    limits = Limits(body_bytes=_MOST)
    with (
        serve(engine=RecordingEngine(), api_key="tml-right", limits=limits) as server,
        httpx.Client(base_url=server.base_url, headers={"X-API-Key": "tml-right"}) as http,
    ):
        yield http


@each(SECURED)
def test_a_wrong_key_is_401(operation: Operation, guarded: httpx.Client) -> None:
    assert operation.send(guarded, headers={"X-API-Key": "tml-wrong"}) == 401


@each(WITH_BODY)
def test_a_body_that_is_too_large_is_413(operation: Operation, guarded: httpx.Client) -> None:
    assert operation.send(guarded, json={"x": "y" * _MOST}) == 413


@each(WITH_BODY)
def test_a_body_of_another_type_is_415(operation: Operation, guarded: httpx.Client) -> None:
    assert (
        operation.send(
            guarded, content=b"x=y", headers={"content-type": "application/x-www-form-urlencoded"}
        )
        == 415
    )


@each(WITH_BODY)
def test_a_body_that_is_not_what_its_encoding_says_is_400(
    operation: Operation, guarded: httpx.Client
) -> None:
    headers = {"content-type": "application/json", "content-encoding": "zstd"}
    assert operation.send(guarded, content=b"no zstd", headers=headers) == 400


@each(WITH_BODY)
def test_a_body_that_is_not_json_is_422(operation: Operation, guarded: httpx.Client) -> None:
    assert (
        operation.send(guarded, content=b"{", headers={"content-type": "application/json"}) == 422
    )


@each([operation for operation in OPERATIONS if "{" in operation.path and not operation.has_body])
def test_an_unknown_object_is_404(operation: Operation, guarded: httpx.Client) -> None:
    assert operation.send(guarded) == 404


@each(OPERATIONS)
def test_a_fault_of_the_server_is_500(
    operation: Operation, guarded: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tinkex_server.wire.bodies.read"
        if operation.has_body
        else "tinkex_server.routes.support.endpoint.Access",
        None,
    )
    assert operation.send(guarded, **({"json": {}} if operation.has_body else {})) == 500


def operation(name: str) -> Operation:
    return next(operation for operation in OPERATIONS if operation.name == name)


def test_a_saturated_server_is_429_to_all_that_promise_something() -> None:
    with started(RecordingEngine(), limits=Limits(pending=1)) as api:
        session = api.session()
        model, sampler = api.model(session), api.sampler(session)
        api.ok("asample", **sample(sampler, 0, 96))  # waits for the gate
        numbered = {"model_id": model, "seq_id": 1}
        bodies = {
            "create_model": new_model(session, 1),
            "forward_backward": step(model, 1),
            "forward": step(model, 1, path="forward"),
            "optim_step": {**numbered, "adam_params": {"learning_rate": 0.1}},
            "sample": sample(sampler, 1),
            "save_weights": {**numbered, "path": "a"},
            "save_weights_for_sampler": {**numbered, "path": "a"},
            "save_weights_external": {**numbered, "path": "a"},
            "load_weights": {**numbered, "path": f"tinker://{model}/weights/a", "optimizer": True},
            "unload_model": {"model_id": model},
        }
        assert {
            name: operation(name).send(api.http, json=body) for name, body in bodies.items()
        } == dict.fromkeys(bodies, 429)
        api.engine.gate.set()


@each(OPERATIONS)
def test_a_server_that_starts_or_stops_is_503(operation: Operation) -> None:
    """Every operation lists this status; that the server answers it is tested in
    tests/server/routes/test_server.py and tests/server/profiles/test_profiles.py.
    """
    assert "503" in operation.statuses


def test_a_range_beyond_the_file_is_416() -> None:
    with started(RecordingEngine()) as api:
        model = api.model()
        api.result(api.ok("save_weights", model_id=model, seq_id=1, path="nothing"))
        download = operation("download_checkpoint_archive")
        at = evolve(download, path=download.path.replace("{run_id}", model))
        assert at.send(api.http, headers={"range": "bytes=1000000-"}) == 416
