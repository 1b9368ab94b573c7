"""Whatever a request holds, the embedded server answers as the contract says, and never with an
error of its own.

Schemathesis makes requests from the contract: valid ones, crooked ones, and those at the edges of
each field.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import Api
from tinkex.local import Limits, serve

CONTRACT = Path(__file__).resolve().parents[2] / "openapi" / "tinker.yaml"
EXAMPLES = int(os.environ.get("TINKEX_TEST_EXAMPLES", "10"))
"""The number of examples for each operation."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@schemathesis.serializer("application/x-protobuf")
def as_it_is(context: schemathesis.SerializationContext, value: Any) -> bytes:
    """Returns the value as bytes, which is all that the contract says of protobuf."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


schema = schemathesis.openapi.from_path(CONTRACT)


class Patient(Api):
    """Asks again, since the server holds no poll for long."""

    def result(self, promise: dict[str, Any]) -> dict[str, Any]:
        while (
            response := self.send("retrieve_future", request_id=promise["request_id"])
        ).status_code == 408:
            pass
        return response.json()


@pytest.fixture(scope="module")
def there() -> Iterator[Mapping[str, str]]:
    """The server's address and the ids of what exists, by the names of the fields for them."""
    engine = RecordingEngine()
    engine.gate.set()
    with (
        serve(engine=engine, hold=0.05, limits=Limits(models=10_000)) as server,
        httpx.Client(base_url=server.base_url) as http,
    ):
        api = Patient(http, engine)
        session_id = api.session()
        model_id = api.model(session_id)
        saved = api.ok("save_weights", model_id=model_id, seq_id=1, path="state")
        path = api.result(saved)["path"]
        yield {
            "base_url": server.base_url,
            "session_id": session_id,
            "model_id": model_id,
            "run_id": model_id,
            "sampling_session_id": (sampler_id := api.sampler(session_id, 0)),
            "sampler_id": sampler_id,
            "request_id": saved["request_id"],
            **dict.fromkeys(("source_path", "model_path", "tinker_path"), path),
            "base_model": "fake/base",
            "kind": "weights",
            "name": "state",
        }


def fill_in(fields: Any, there: Mapping[str, str]) -> Any:
    """Returns fields with an existing id in place of every other text, so that more than the lookup
    is tried.
    """
    if isinstance(fields, list):
        return [fill_in(entry, there) for entry in fields]
    if not isinstance(fields, dict):
        return fields
    return {
        name: there[name]
        if name in there and isinstance(value, str) and len(value) % 2 == 0
        else fill_in(value, there)
        for name, value in fields.items()
    }


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_one_of_the_contract(
    case: schemathesis.Case, there: Mapping[str, str]
) -> None:
    case.body, case.path_parameters = (
        fill_in(case.body, there),
        fill_in(case.path_parameters, there),
    )
    case.call_and_validate(base_url=there["base_url"], checks=CHECKS)
