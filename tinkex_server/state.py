"""`ServerState`: what the routes work on, and the rules that several of them share."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tinkex_server.access.ownership import Access
from tinkex_server.access.secret import load_secret
from tinkex_server.access.signed_urls import Signer
from tinkex_server.data_dir.folders import Folders
from tinkex_server.data_dir.reconcile import reconcile
from tinkex_server.data_dir.uploads import Uploads
from tinkex_server.engine.interface import Engine, EngineExit, ModelInfo
from tinkex_server.errors import Refused, bad_request
from tinkex_server.ids import Ids
from tinkex_server.jobs.engine_recovery import EngineRecovery
from tinkex_server.jobs.futures import Futures
from tinkex_server.jobs.lanes import Job, Lanes
from tinkex_server.jobs.refused_seq_ids import Refusals, named
from tinkex_server.jobs.sampler_cache import SamplerCache
from tinkex_server.jobs.seq_ids import SeqIds, Steps
from tinkex_server.limits import Limits
from tinkex_server.store import ModelRow, SessionRow, Store
from tinkex_server.wire.downloads import Downloads

logger = logging.getLogger("tinkex.local")


class ServerState:
    """The state of one server: the engine, what is remembered, and what is under way. Lives on the
    event loop's thread.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        data_dir: Path,
        *,
        hold: float,
        ids: Ids,
        seq_ids: SeqIds,
        limits: Limits,
        exchange_keys: bool,
    ) -> None:
        self.engine = engine
        self.store = store
        self.data_dir = data_dir
        self.limits = limits
        self.folders = Folders(data_dir)
        self.uploads = Uploads(data_dir)
        self.exchange_keys = exchange_keys
        self.secret = load_secret(data_dir)
        self.signer = Signer(self.secret)
        self.downloads = Downloads()
        self.lanes = Lanes()
        self.ids = ids
        self.steps = Steps(seq_ids)
        self.refusals = Refusals(self.lanes)
        self.futures = Futures(
            store, self.lanes, hold, ids, seq_ids.conflict_status, limits.pending, engine.ready
        )
        self.base_models: Mapping[str, ModelInfo] = {
            model.name: model for model in engine.base_models
        }
        self.revival = EngineRecovery(engine, store, self.lanes, self.futures, self.folders)
        self.samplers = SamplerCache(engine, store, self.lanes, self.folders, limits.samplers)
        self._last_request: dict[str, float] = {}  # by session
        self._told: set[str] = set()
        self._started_at = time.time()
        store.recover("the server was restarted before this was done", self._started_at)
        reconcile(store, self.folders)
        self._loop = asyncio.get_running_loop()
        engine.watch(self._note_death)

    def stop(self) -> None:
        """Answers the polls that wait."""
        self.futures.stop()

    async def close(self) -> None:
        """Waits for the engine's calls under way, and drops the rest."""
        await self.lanes.close()

    def _note_death(self, death: EngineExit) -> None:
        """On a thread of the engine."""
        self._loop.call_soon_threadsafe(self._outlive, death)

    def _outlive(self, death: EngineExit) -> None:
        self.samplers.forget_all()
        self.revival.outlive(death)

    def base_model(self, name: str) -> ModelInfo:
        """Raises `Refused`, naming those that there are."""
        if name not in self.base_models:
            raise bad_request(
                f"unknown base model {name!r}; this server has {', '.join(self.base_models)}"
            )
        return self.base_models[name]

    def retire(self, row: ModelRow) -> bool:
        """Takes no more requests for this model, and fails those whose turn can no longer come.
        Whether it took any before.
        """
        if row.state not in ("creating", "ready"):
            return False
        self.store.models.set_state(row.model_id, "unloaded")
        self.revival.forget(row.model_id)
        self.futures.fail_early(row.model_id, "the model was unloaded before its turn came")
        return True

    def unload_later(self, model_id: str) -> None:
        """Frees the model's memory, after the requests whose turn has come."""

        self.lanes.put(model_id, None, Job(None, partial(self.unload, model_id)))

    async def unload(self, model_id: str) -> None:
        """To be run in the model's lane, as the last thing."""
        await self.lanes.call(self.engine.unload_model, model_id)
        self.lanes.forget(model_id)
        self.steps.forget(model_id)
        self.refusals.forget(model_id)
        self.revival.forget(model_id)  # it may have been made since it was retired

    def note_request(self, session_id: str) -> None:
        """The session's client is there."""
        self._last_request[session_id] = time.time()

    def note_unread(self, access: Access, refusal: Refused, fields: Mapping[str, object]) -> None:
        """Lets the turn of a request pass whose body says by `fields` whose it is, and is wrong
        elsewhere.

        The same bytes are refused again for the same reason, so they need no fingerprint.
        """
        if name := named(fields):
            model_id, number = name
            row = self.store.models.get(model_id)
            if row is not None and access.sees(row.owner) and row.state in ("creating", "ready"):
                self.refusals.note(model_id, number, "", refusal)

    def tell_once(self, words: str, about: str) -> None:
        """Logs a warning, the first time that it is about this."""
        if about not in self._told:
            self._told.add(about)
            logger.warning("%s (this is said once)", words)

    def silent_sessions(self, since: float) -> list[SessionRow]:
        """Those whose clients sent neither a heartbeat nor a request since then, though they could
        have.
        """
        if self._started_at >= since:
            return []
        silent = self.store.sessions.silent_since(since)
        return [
            session for session in silent if self._last_request.get(session.session_id, 0.0) < since
        ]

    def end_session(self, session_id: str, reason: str, detail: str | None, now: float) -> bool:
        """Its models are unloaded after the requests whose turn has come, and what it samples from
        is freed.

        Whether this was the first to end it: the first reason stays.
        """
        if not self.store.sessions.finish(session_id, reason, detail, now):
            return False
        for model in self.store.models.of_session(session_id):
            if self.retire(model):
                self.unload_later(model.model_id)
        for sampler in self.store.samplers.of_session(session_id):
            self.samplers.free(sampler.weights_id)
            self.futures.forget_ended(sampler.sampler_id)
        self._last_request.pop(session_id, None)
        return True

    async def remove_unused_folders(self) -> None:
        """Removes the folders of what was deleted, overwritten or has ended."""
        await self.folders.remove_unused(self.store.folders)
