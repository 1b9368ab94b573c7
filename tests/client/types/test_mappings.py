"""Objects that are maps are dicts: those that a server answers with, and those that are sent."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from tinkex_api import models

from tinkex import AdamParams
from tinkex.local import Server

EXAMPLES: dict[str, dict[str, Any]] = {
    "AuditEventDetails": {"path": "p", "number": 1},
    "AuthTokenRequest": {},
    "BillingUsageSessions": {"S1": {"user_metadata": {"a": "b"}}},
    "CustomLossNodeKwargs": {"dim": -1},
    "LossFnConfig": {"clip_low_threshold": 0.8},
    "LossFnInputs": {"weights": {"data": [1.0], "dtype": "float32", "shape": [1]}},
    "Metrics": {"loss:sum": 1.5},
    "SignedUrls": {"adapter_model.safetensors": "https://x"},
    "StepMetrics": {"reward": 0.5},
    "TelemetryEventEventData": {"n": [1]},
    "UploadHeaders": {"Content-Type": "application/octet-stream"},
    "UploadUrls": {"a": {"url": "https://x", "headers": {"b": "c"}}, "d": "https://y"},
    "UserMetadata": {"experiment": "7"},
}


def test_every_map_class_is_a_dict() -> None:
    kinds = {name: getattr(models, name) for name in models.__all__}
    assert sorted(name for name, kind in kinds.items() if issubclass(kind, dict)) == sorted(
        EXAMPLES
    )
    own_fields = {name: attrs.fields(kind) for name, kind in kinds.items() if attrs.has(kind)}
    assert [
        name
        for name, own in own_fields.items()
        if [field.name for field in own] == ["additional_properties"]
    ] == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_map_is_read_and_written_as_a_dict(name: str) -> None:
    kind, fields = getattr(models, name), EXAMPLES[name]
    value = kind.from_dict(fields)
    assert (value.keys(), value.to_dict()) == (fields.keys(), fields)
    assert {**value, "more": 1}.keys() == {*fields, "more"}
    assert value.get("no such key", 5) == 5
    value.update({"more": next(iter(value.values()), 0)})
    assert pickle.loads(pickle.dumps(value)) == value == dict(value)
    assert type(pickle.loads(pickle.dumps(value))) is kind


def test_metrics_of_a_step_are_merged_and_written(service: Any) -> None:
    trainer = service.create_lora_training_client(
        "fake/base", rank=4, user_metadata={"experiment": "7"}
    )
    metrics = {"step": 1.0}
    found = trainer.optim_step(AdamParams(learning_rate=1e-3)).result().metrics
    metrics.update(found)
    assert metrics == {"step": 1.0, **found}
    assert json.loads(json.dumps(found)) == dict(found.items())


def test_metadata_of_a_run_is_asked_by_name(
    connect_rest: Callable[..., Any], server: Server, service: Any
) -> None:
    trainer = service.create_lora_training_client(
        "fake/base", rank=4, user_metadata={"experiment": "7"}
    )
    run = connect_rest(server.base_url).get_training_run(trainer.model_id)
    assert (run.user_metadata.get("experiment"), run.user_metadata.get("other")) == ("7", None)
