"""`ServerState`: the parts of a running server that its routes work with.

`CommonState` has what does not depend on where models are computed, for routes that any server of
this API has in the same way. `ServerState` adds an engine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from attrs import frozen

from tinkex_server.access.secret import load_secret
from tinkex_server.access.signed_urls import Signer
from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.data_dir.folders import Folders
from tinkex_server.data_dir.reconcile import reconcile
from tinkex_server.data_dir.uploads import Uploads
from tinkex_server.engine.interface import Engine, EngineDied, ModelInfo, unknown_base_model
from tinkex_server.errors import bad_request
from tinkex_server.ids import Ids
from tinkex_server.jobs.engine_recovery import EngineRecovery
from tinkex_server.jobs.futures import Futures
from tinkex_server.jobs.lanes import Lanes, LanesClosed
from tinkex_server.jobs.model_job import ModelJob
from tinkex_server.jobs.once_logger import OnceLogger
from tinkex_server.jobs.refusals import Refusals
from tinkex_server.jobs.refused_seq_ids import RefusedSeqIds
from tinkex_server.jobs.requests import Work
from tinkex_server.jobs.sampler_cache import SamplerCache
from tinkex_server.jobs.seq_ids import SeqIds, StepOrder
from tinkex_server.jobs.session_activity import SessionActivity
from tinkex_server.limits import Limits
from tinkex_server.store import SamplerRow, Store
from tinkex_server.wire.downloads import Downloads

logger = logging.getLogger("tinkex.local")


@frozen(kw_only=True)
class ModelRequest:
    """An accepted request of a model, which is to be done at its turn."""

    model_id: str
    seq_id: int | None
    kind: str
    arrived_at: float
    """The time at which its headers arrived, on the monotonic clock."""


@frozen(kw_only=True, eq=False)
class CommonState(ABC):
    """The store, and the bookkeeping of requests, whatever computes the models. To be used on the
    event loop's thread.
    """

    store: Store
    data_dir: Path
    limits: Limits
    ids: Ids
    exchange_keys: bool
    """Whether clients are asked to exchange their API key for a token."""
    secret: bytes
    signer: Signer
    folders: Folders
    downloads: Downloads
    lanes: Lanes
    futures: Futures
    step_order: StepOrder
    refused_seq_ids: RefusedSeqIds
    activity: SessionActivity
    refusals: Refusals
    once_logger: OnceLogger

    @abstractmethod
    def base_model(self, name: str) -> ModelInfo:
        """Returns a base model. Raises `Refused` for an unknown one."""

    @abstractmethod
    def checked(self, request: ModelRequest, work: Work) -> Work:
        """Returns the work of a request, with the checks that make its result trusted."""

    @abstractmethod
    def note_created(
        self, model_id: str, source: CheckpointPath | None, *, optimizer: bool
    ) -> None:
        """Notes that a model was created, from the checkpoint `source` if there is one."""

    @abstractmethod
    def retire(self, model_id: str) -> None:
        """Drops what is known of a model that accepts no more requests; it is freed later."""

    @abstractmethod
    async def free_model(self, model_id: str) -> None:
        """Frees a model's memory. Called as the last job of the model's lane."""

    @abstractmethod
    def note_ended(self, session_id: str, reason: str, detail: str | None) -> None:
        """Notes that a session has ended. Its models and samplers are freed by other calls."""

    @abstractmethod
    async def drop_expired(self, now: float) -> None:
        """Removes what has expired by `now`, in seconds since 1970, and is in no table."""

    @abstractmethod
    def free_sampler(self, sampler: SamplerRow) -> None:
        """Frees the memory of a sampling session's weights once its samples have ended."""


@frozen(kw_only=True, eq=False)
class ServerState(CommonState):
    """The state of a server with an engine of its own."""

    engine: Engine
    uploads: Uploads
    samplers: SamplerCache
    recovery: EngineRecovery
    base_models: Mapping[str, ModelInfo]

    def base_model(self, name: str) -> ModelInfo:
        """Returns a base model. Raises `Refused` for an unknown one, with the names of those that
        exist.
        """
        if name not in self.base_models:
            raise bad_request(str(unknown_base_model(name, self.base_models)))
        return self.base_models[name]

    def checked(self, request: ModelRequest, work: Work) -> Work:
        return ModelJob(
            model_id=request.model_id,
            seq_id=request.seq_id,
            kind=request.kind,
            work=work,
            lost_steps=self.recovery.unknown_lost_steps(request.model_id, request.arrived_at),
            order=self.step_order,
            recovery=self.recovery,
        ).run

    def note_created(
        self, model_id: str, source: CheckpointPath | None, *, optimizer: bool
    ) -> None:
        self.recovery.note_created(model_id)
        if source:
            self.recovery.note_state(model_id, source, optimizer=optimizer)

    def retire(self, model_id: str) -> None:
        self.recovery.forget(model_id)

    async def free_model(self, model_id: str) -> None:
        try:
            await self.lanes.call(self.engine.unload_model, model_id)
        except (EngineDied, LanesClosed):
            logger.debug("model %s was freed with the engine's memory", model_id)
        # a model that was still being created when it was retired was noted again since
        self.recovery.forget(model_id)

    def note_ended(self, session_id: str, reason: str, detail: str | None) -> None:
        """Does nothing: the engine knows of no sessions."""

    async def drop_expired(self, now: float) -> None:
        await asyncio.to_thread(self.uploads.drop_expired, now)

    def free_sampler(self, sampler: SamplerRow) -> None:
        self.samplers.free(sampler.weights_id)


def common_parts(
    store: Store,
    data_dir: Path,
    *,
    hold: float,
    ids: Ids,
    seq_ids: SeqIds,
    limits: Limits,
    exchange_keys: bool,
    ready: Future[str],
    lanes: Lanes,
    started_at: float,
) -> dict[str, Any]:
    """Returns the parts of a `CommonState` by name.

    Args:
        hold: the seconds that a poll waits for a result.
        ready: a future that is done when models can be computed; polls say so until then.
        started_at: the time of the start, in seconds since 1970.
    """
    secret = load_secret(data_dir)
    return {
        "store": store,
        "data_dir": data_dir,
        "limits": limits,
        "ids": ids,
        "exchange_keys": exchange_keys,
        "secret": secret,
        "signer": Signer(secret),
        "folders": Folders(data_dir),
        "downloads": Downloads(),
        "lanes": lanes,
        "futures": Futures(store, lanes, hold, ids, seq_ids.conflict, limits.pending, ready),
        "step_order": StepOrder(seq_ids),
        "refused_seq_ids": RefusedSeqIds(lanes, store),
        "activity": SessionActivity(store, started_at),
        "refusals": Refusals(),
        "once_logger": OnceLogger(),
    }


def open_state(
    engine: Engine,
    store: Store,
    data_dir: Path,
    *,
    hold: float,
    ids: Ids,
    seq_ids: SeqIds,
    limits: Limits,
    exchange_keys: bool,
) -> ServerState:
    """Creates the state of a server that starts, and cleans up after the last one on the same data
    folder.

    Args:
        hold: the seconds that a poll waits for a result.
    """
    started_at = time.time()
    lanes = Lanes()
    parts = common_parts(
        store,
        data_dir,
        hold=hold,
        ids=ids,
        seq_ids=seq_ids,
        limits=limits,
        exchange_keys=exchange_keys,
        ready=engine.ready,
        lanes=lanes,
        started_at=started_at,
    )
    folders: Folders = parts["folders"]
    samplers = SamplerCache(engine, store, lanes, folders, limits.samplers)
    recovery = EngineRecovery(engine, store, lanes, parts["futures"], folders, samplers)
    state = ServerState(
        **parts,
        engine=engine,
        uploads=Uploads(data_dir),
        samplers=samplers,
        recovery=recovery,
        base_models={model.name: model for model in engine.base_models},
    )
    store.recover("the server was restarted before this was done", started_at)
    reconcile(store, folders)
    recovery.watch()
    return state
