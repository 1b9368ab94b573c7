"""Calls to a served fake engine, and bodies to send."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from attrs import define

from tests.support.recording_engine import RecordingEngine
from tinkex.local import serve

API = "/api/v1"


@define
class Api:
    """Calls by their names, over a real socket."""

    http: httpx.Client
    engine: RecordingEngine

    def send(self, path: str, /, **body: Any) -> httpx.Response:
        return self.http.post(f"{API}/{path}", json=body)

    def ok(self, path: str, /, **body: Any) -> dict[str, Any]:
        response = self.send(path, **body)
        assert response.status_code == 200, response.text
        return response.json()

    def get(self, path: str, /, **params: Any) -> httpx.Response:
        return self.http.get(f"{API}/{path}", params=params)

    def result(self, promise: dict[str, Any]) -> dict[str, Any]:
        return self.ok("retrieve_future", request_id=promise["request_id"])

    def session(self) -> str:
        return self.ok(
            "create_session", tags=[], user_metadata={}, sdk_version="1", type="create_session"
        )["session_id"]

    def model(self, session_id: str | None = None, number: int = 0) -> str:
        promise = self.ok("create_model", **new_model(session_id or self.session(), number))
        return self.result(promise)["model_id"]

    def step(
        self, model_id: str, seq_id: int | None, *tokens: int, path: str = "forward_backward"
    ) -> dict[str, Any]:
        return self.ok(path, **step(model_id, seq_id, *tokens, path=path))

    def sampler(self, session_id: str | None = None, number: int = 0, **weights: str) -> str:
        weights = weights or {"base_model": "fake/base"}
        body = {
            "session_id": session_id or self.session(),
            "sampling_session_seq_id": number,
            **weights,
        }
        return self.ok("create_sampling_session", **body)["sampling_session_id"]


def new_model(session_id: str, number: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "model_seq_id": number,
        "base_model": "fake/base",
        "lora_config": {"rank": 4},
        **more,
    }


def step(
    model_id: str, seq_id: int | None, *tokens: int, path: str = "forward_backward"
) -> dict[str, Any]:
    values = list(tokens or (1, 2, 3))
    inputs = {
        "target_tokens": {"data": values, "dtype": "int64"},
        "weights": {"data": [1.0] * len(values), "dtype": "float32"},
    }
    datum = {
        "model_input": {"chunks": [{"type": "encoded_text", "tokens": values}]},
        "loss_fn_inputs": inputs,
    }
    body = {"model_id": model_id, f"{path}_input": {"data": [datum], "loss_fn": "cross_entropy"}}
    return body if seq_id is None else {**body, "seq_id": seq_id}


def sample(sampler_id: str, seq_id: int | None = None, *tokens: int, **more: Any) -> dict[str, Any]:
    prompt = {"chunks": [{"type": "encoded_text", "tokens": list(tokens or (5, 6))}]}
    body = {
        "sampling_session_id": sampler_id,
        "prompt": prompt,
        "sampling_params": {"max_tokens": 2},
        **more,
    }
    return body if seq_id is None else {**body, "seq_id": seq_id}


@contextmanager
def calls(base_url: str, engine: RecordingEngine | None = None) -> Iterator[Api]:
    """Yields calls to a server that runs; `engine` is given where it is this process's."""
    with httpx.Client(base_url=base_url, timeout=15) as http:
        yield Api(http, engine or RecordingEngine())


@contextmanager
def started(engine: RecordingEngine, **how: Any) -> Iterator[Api]:
    with serve(engine=engine, **how) as server, calls(server.base_url, engine) as api:
        yield api


def saved_folder(data_dir: Path, run_id: str, kind: str, name: str) -> Path:
    """Returns the folder of a path's weights; fails if it is missing, or older ones lie beside
    them.
    """
    [folder] = (data_dir / "checkpoints" / run_id.replace(":", "_") / kind).glob(f"{name}.????????")
    return folder


def saved(
    api: Api, name: str = "one", kind: str = "save_weights", seq_id: int = 1, **more: Any
) -> tuple[str, str]:
    """Saves weights of a new run and returns the run and the checkpoint's URL."""
    model_id = api.model()
    path = api.result(api.ok(kind, model_id=model_id, seq_id=seq_id, path=name, **more))["path"]
    return model_id, f"{API}/training_runs/{model_id}/checkpoints/{path.split('/', 3)[3]}"


def listed(api: Api, model_id: str) -> dict[str, Any]:
    [checkpoint] = api.get(f"training_runs/{model_id}/checkpoints").json()["checkpoints"]
    return checkpoint


def location(api: Api, url: str) -> str:
    """Returns the signed URL of the archive of a checkpoint, to which the server redirects."""
    response = api.http.get(f"{url}/archive")
    assert response.status_code == 302, response.text
    return response.headers["location"]
