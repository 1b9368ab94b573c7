"""`ServerState`: the parts of a running server that its routes work with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from tinkex_server.access.secret import load_secret
from tinkex_server.access.signed_urls import Signer
from tinkex_server.data_dir.folders import Folders
from tinkex_server.data_dir.reconcile import reconcile
from tinkex_server.data_dir.uploads import Uploads
from tinkex_server.engine.interface import Engine, ModelInfo
from tinkex_server.errors import bad_request
from tinkex_server.ids import Ids
from tinkex_server.jobs.engine_recovery import EngineRecovery
from tinkex_server.jobs.futures import Futures
from tinkex_server.jobs.lanes import Lanes
from tinkex_server.jobs.once_logger import OnceLogger
from tinkex_server.jobs.refused_seq_ids import RefusedSeqIds
from tinkex_server.jobs.sampler_cache import SamplerCache
from tinkex_server.jobs.seq_ids import SeqIds, StepOrder
from tinkex_server.jobs.session_activity import SessionActivity
from tinkex_server.limits import Limits
from tinkex_server.store import Store
from tinkex_server.wire.downloads import Downloads


@frozen(kw_only=True, eq=False)
class ServerState:
    """The engine, the store, and the bookkeeping of requests. To be used on the event loop's
    thread.
    """

    engine: Engine
    store: Store
    data_dir: Path
    limits: Limits
    ids: Ids
    exchange_keys: bool
    """Whether clients are asked to exchange their API key for a token."""
    secret: bytes
    signer: Signer
    folders: Folders
    uploads: Uploads
    downloads: Downloads
    lanes: Lanes
    futures: Futures
    step_order: StepOrder
    refused_seq_ids: RefusedSeqIds
    samplers: SamplerCache
    recovery: EngineRecovery
    activity: SessionActivity
    once_logger: OnceLogger
    base_models: Mapping[str, ModelInfo]

    def base_model(self, name: str) -> ModelInfo:
        """Returns a base model. Raises `Refused` for an unknown one, with the names of those that
        exist.
        """
        if name not in self.base_models:
            raise bad_request(
                f"unknown base model {name!r}; this server has {', '.join(self.base_models)}"
            )
        return self.base_models[name]


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
    folders, lanes, secret = Folders(data_dir), Lanes(), load_secret(data_dir)
    futures = Futures(
        store, lanes, hold, ids, seq_ids.conflict_status, limits.pending, engine.ready
    )
    samplers = SamplerCache(engine, store, lanes, folders, limits.samplers)
    recovery = EngineRecovery(engine, store, lanes, futures, folders, samplers)
    state = ServerState(
        engine=engine,
        store=store,
        data_dir=data_dir,
        limits=limits,
        ids=ids,
        exchange_keys=exchange_keys,
        secret=secret,
        signer=Signer(secret),
        folders=folders,
        uploads=Uploads(data_dir),
        downloads=Downloads(),
        lanes=lanes,
        futures=futures,
        step_order=StepOrder(seq_ids),
        refused_seq_ids=RefusedSeqIds(lanes, store),
        samplers=samplers,
        recovery=recovery,
        activity=SessionActivity(store, started_at),
        once_logger=OnceLogger(),
        base_models={model.name: model for model in engine.base_models},
    )
    store.recover("the server was restarted before this was done", started_at)
    reconcile(store, folders)
    recovery.watch()
    return state
