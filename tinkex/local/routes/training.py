"""Training steps and saves: each waits for its turn in the model's lane."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tinkex_api.models import (
    AdamParams,
    ForwardBackwardInput,
    ForwardBackwardRequest,
    ForwardRequest,
    Metrics,
    OptimStepRequest,
    OptimStepResponse,
    SaveWeightsForSamplerRequest,
    SaveWeightsForSamplerResponse,
    UntypedAPIFuture,
)

from tinkex.local.backend import Backend
from tinkex.local.engine.base import InvalidRequest
from tinkex.local.errors import bad_request, malformed
from tinkex.local.futures import Ticket, Work
from tinkex.local.http import Call, post
from tinkex.local.paths import SAMPLER_WEIGHTS, CheckpointPath, check_name
from tinkex.local.store import CheckpointRow, ModelRow, SamplerRow
from tinkex.local.translate import adam_settings, encode, encode_loss, examples, loss_config


async def forward_backward(backend: Backend, call: Call[ForwardBackwardRequest]) -> Mapping[str, Any]:
    batch, at = call.body.forward_backward_input, "forward_backward_input"
    return _in_turn(backend, call, "forward_backward", lambda row: _loss(backend, row, batch, at, backward=True))


async def forward(backend: Backend, call: Call[ForwardRequest]) -> Mapping[str, Any]:
    batch, at = call.body.forward_input, "forward_input"
    return _in_turn(backend, call, "forward", lambda row: _loss(backend, row, batch, at, backward=False))


async def optim_step(backend: Backend, call: Call[OptimStepRequest]) -> Mapping[str, Any]:
    return _in_turn(backend, call, "optim_step", lambda row: _optim_step(backend, row, call.body))


async def save_for_sampler(backend: Backend, call: Call[SaveWeightsForSamplerRequest]) -> Mapping[str, Any]:
    return _in_turn(backend, call, "save_weights_for_sampler", lambda row: _save_for_sampler(backend, row, call.body))


_Request = ForwardBackwardRequest | ForwardRequest | OptimStepRequest | SaveWeightsForSamplerRequest


def _in_turn(backend: Backend, call: Call[Any], kind: str, prepare: Callable[[ModelRow], Work]) -> Mapping[str, Any]:
    """Queues what `prepare` makes of the request at its seq_id's turn, unless it was taken on before.

    `prepare` refuses what can be seen to be wrong, before the seq_id is taken.
    """
    body: _Request = call.body
    if body.seq_id < 0:
        raise malformed("seq_id", message="must be 1 or more")
    number = body.seq_id or None  # 0 and absent: no number, so it runs when it comes
    ticket = Ticket(body.model_id, number, kind, call.fingerprint)
    request_id = backend.futures.repeated(ticket)
    if request_id is None:
        work = prepare(backend.model(body.model_id))
        backend.store.note_request(body.model_id, time.time())
        request_id = backend.futures.submit(ticket, work, lane=body.model_id, number=number)
    return UntypedAPIFuture(request_id, body.model_id).to_dict()


def _loss(backend: Backend, row: ModelRow, batch: ForwardBackwardInput, at: str, *, backward: bool) -> Work:
    config = loss_config(batch, (at,))
    data = examples(batch, (at,))

    def compute() -> bytes:
        return encode_loss(backend.engine.forward_backward(row.model_id, data, batch.loss_fn, config, backward=backward))

    return lambda: backend.lanes.call(compute)


def _optim_step(backend: Backend, row: ModelRow, body: OptimStepRequest) -> Work:
    if not isinstance(body.adam_params, AdamParams):
        raise malformed("adam_params", message="is missing: this server has the optimizer AdamW alone")
    adam = adam_settings(body.adam_params)

    async def work() -> bytes:
        metrics = await backend.lanes.call(backend.engine.optim_step, row.model_id, adam)
        return encode(OptimStepResponse(Metrics.from_dict(metrics)).to_dict())

    return work


def _save_for_sampler(backend: Backend, row: ModelRow, body: SaveWeightsForSamplerRequest) -> Work:
    if body.kind and body.kind != "snapshot":
        raise bad_request("this server saves snapshots for sampling, not kind 'inflight'")
    if isinstance(body.path, str):
        if isinstance(body.sampling_session_seq_id, int):
            raise malformed("sampling_session_seq_id", message="and path cannot both be given")
        if isinstance(body.ttl_seconds, int) and body.ttl_seconds < 1:
            raise malformed("ttl_seconds", message="must be 1 or more")
        return _save_named(backend, body, CheckpointPath(row.model_id, SAMPLER_WEIGHTS, check_name(body.path, "path")))
    if not isinstance(body.sampling_session_seq_id, int):
        raise malformed("path", message="is missing, and so is sampling_session_seq_id: one of them is needed")
    return _save_ephemeral(backend, row, body.sampling_session_seq_id)


def _save_named(backend: Backend, body: SaveWeightsForSamplerRequest, path: CheckpointPath) -> Work:
    async def work() -> bytes:
        if backend.store.checkpoint(path):
            raise InvalidRequest(f"{path} exists; save under another name, or delete it first")
        folder, now = path.folder(backend.data_dir), time.time()
        await backend.lanes.call(backend.engine.save_model, path.run_id, folder)
        expires_at = now + body.ttl_seconds if isinstance(body.ttl_seconds, int) else None
        backend.store.put_checkpoint(CheckpointRow(path, _size(folder), now, expires_at))
        return encode(SaveWeightsForSamplerResponse(str(path)).to_dict() | {"type": body.type_})

    return work


def _save_ephemeral(backend: Backend, row: ModelRow, number: int) -> Work:
    sampler_id = f"{row.session_id}:sample:{number}"
    folder = backend.data_dir / "samplers" / sampler_id

    async def work() -> bytes:
        if backend.store.sampler(sampler_id):
            raise InvalidRequest(f"sampling_session_seq_id {number} of session {row.session_id!r} was used before")
        await backend.lanes.call(backend.engine.save_model, row.model_id, folder)
        sampler = SamplerRow(sampler_id, row.session_id, row.base_model, None, str(folder))
        backend.store.add_sampler(sampler, time.time())
        return encode(SaveWeightsForSamplerResponse(sampling_session_id=sampler_id).to_dict())

    return work


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


_UNNUMBERED = {"seq_id": 0}
ROUTES = [
    post("/forward_backward", ForwardBackwardRequest, forward_backward, defaults=_UNNUMBERED),
    post("/forward", ForwardRequest, forward, defaults=_UNNUMBERED),
    post("/optim_step", OptimStepRequest, optim_step, defaults=_UNNUMBERED),
    post("/save_weights_for_sampler", SaveWeightsForSamplerRequest, save_for_sampler, defaults=_UNNUMBERED),
]
