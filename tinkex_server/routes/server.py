"""The routes that describe the server: configuration, health, models."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from attrs import evolve
from tinkex_api.models import (
    ClientConfigRequest,
    ClientConfigResponse,
    ClientDynamicConfigResponse,
    GetServerCapabilitiesResponse,
    HealthResponse,
    SupportedModel,
    TelemetryResponse,
    TelemetrySendRequest,
)

from tinkex_server.routes.support.endpoint import Call, get, post
from tinkex_server.state import ServerState

_LONGEST_CHUNK = 1024  # datums
FLAGS = ClientConfigResponse(
    pjwt_auth_enabled=False,
    parallel_fwdbwd_chunks=True,
    fwdbwd_max_chunk_len=_LONGEST_CHUNK,
    fwdbwd_max_chunk_bytes_count=5_000_000,
    proto_compress_fwdbwd=False,
    sample_join_sampling_session=True,
    seq_id_repeats="repeats",
    reports_state_loss=True,
    custom_loss_server_side=True,
)
_CHANGING_FLAGS = ClientDynamicConfigResponse(
    refresh_interval_sec=300, sample_cancel_enabled=True, sample_cancel_max_batch_size=64
)


async def client_config(state: ServerState, call: Call[ClientConfigRequest]) -> Mapping[str, Any]:
    longest = min(_LONGEST_CHUNK, state.limits.datums)
    return evolve(
        FLAGS, fwdbwd_max_chunk_len=longest, pjwt_auth_enabled=state.exchange_keys
    ).to_dict()


async def dynamic_config(state: ServerState, call: Call[ClientConfigRequest]) -> Mapping[str, Any]:
    return _CHANGING_FLAGS.to_dict()


async def health(state: ServerState, call: Call[None]) -> Mapping[str, Any]:
    return HealthResponse(status="ok").to_dict()


async def capabilities(state: ServerState, call: Call[None]) -> Mapping[str, Any]:
    return GetServerCapabilitiesResponse(
        [
            SupportedModel(model.name, model.max_context_length, True, True)
            for model in state.base_models.values()
        ],
        runs_on=_runs_on(state.engine.ready),
    ).to_dict()


def _runs_on(ready: Future[str]) -> str | None:
    """Returns what the engine runs on, None if it is starting or cannot start."""
    return None if not ready.done() or ready.exception() else ready.result()


async def telemetry(state: ServerState, call: Call[TelemetrySendRequest]) -> Mapping[str, Any]:
    """Accepts telemetry, which clients send unasked, and drops it."""
    return TelemetryResponse(status="accepted").to_dict()


ROUTES = [
    post("/client/config", ClientConfigRequest, client_config),
    post("/client/dynamic_config", ClientConfigRequest, dynamic_config),
    get("/healthz", health),
    get("/get_server_capabilities", capabilities),
    post("/telemetry", TelemetrySendRequest, telemetry, defaults={"process_uuid": ""}),
]
