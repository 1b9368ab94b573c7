"""`Backend`: what the routes work on, and the rules that several of them share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

from tinkex.local.downloads import Downloads
from tinkex.local.engine.base import BaseModel, Death, Engine, InvalidRequest
from tinkex.local.errors import bad_request
from tinkex.local.futures import Futures
from tinkex.local.ids import Ids
from tinkex.local.lanes import Job, Lanes
from tinkex.local.limits import Limits
from tinkex.local.revival import Revival
from tinkex.local.secret import load_secret
from tinkex.local.seq_ids import SeqIds, Steps
from tinkex.local.signed_urls import Signer
from tinkex.local.store import ModelRow, SamplerRow, Store


class Backend:
    """The state of one server: the engine, what is remembered, and what is under way. Lives on the event loop's thread."""

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
    ) -> None:
        self.engine = engine
        self.store = store
        self.data_dir = data_dir
        self.limits = limits
        self.secret = load_secret(data_dir)
        self.signer = Signer(self.secret)
        self.downloads = Downloads()
        self.lanes = Lanes()
        self.ids = ids
        self.steps = Steps(seq_ids)
        self.futures = Futures(store, self.lanes, hold, ids, seq_ids.conflict_status, limits.pending)
        self.base_models: Mapping[str, BaseModel] = {model.name: model for model in engine.base_models}
        self.revival = Revival(engine, store, self.lanes, self.futures, data_dir)
        self._loading: dict[str, asyncio.Future[None]] = {}  # by the engine's name for the weights; done once they are there
        store.recover("the server was restarted before this was done", time.time())
        self._loop = asyncio.get_running_loop()
        engine.watch(self._note_death)

    def stop(self) -> None:
        """Answers the polls that wait."""
        self.futures.stop()

    async def close(self) -> None:
        """Waits for the engine's calls under way, drops the rest, and closes the engine."""
        await self.lanes.close()
        await asyncio.to_thread(self.engine.close)

    def _note_death(self, death: Death) -> None:
        """On a thread of the engine."""
        self._loop.call_soon_threadsafe(self._outlive, death)

    def _outlive(self, death: Death) -> None:
        self._loading.clear()
        self.revival.outlive(death)

    def base_model(self, name: str) -> BaseModel:
        """Raises `Refused`, naming those that there are."""
        if name not in self.base_models:
            raise bad_request(f"unknown base model {name!r}; this server has {', '.join(self.base_models)}")
        return self.base_models[name]

    def retire(self, row: ModelRow) -> bool:
        """Takes no more requests for this model, and fails those whose turn can no longer come. Whether it took any before."""
        if row.state not in ("creating", "ready"):
            return False
        self.store.models.set_state(row.model_id, "unloaded")
        self.revival.forget(row.model_id)
        self.futures.fail_early(row.model_id, "the model was unloaded before its turn came")
        return True

    def unload_later(self, model_id: str) -> None:
        """Frees the model's memory, after the requests whose turn has come."""

        async def unload() -> None:
            await self.lanes.call(self.engine.unload_model, model_id)

        self.lanes.put(model_id, None, Job(None, unload))

    async def load_sampler(self, sampler: SamplerRow) -> None:
        """Makes sure that the engine has the weights, as of now. Those who ask at once wait for one loading."""
        while not await self._loaded(sampler):
            pass

    async def _loaded(self, sampler: SamplerRow) -> bool:
        """Whether the weights that were waited for are still those to sample from: in the meantime they may be forgotten, or newer."""
        loading = self._loading.get(sampler.weights_id)
        if loading is None:
            loading = self._loading[sampler.weights_id] = asyncio.ensure_future(self._load_sampler(sampler))
        try:
            await asyncio.shield(loading)
        except BaseException:
            if loading.done() and self._loading.get(sampler.weights_id) is loading:  # it failed: whoever comes next tries anew
                del self._loading[sampler.weights_id]
            raise
        return self._loading.get(sampler.weights_id) is loading

    async def _load_sampler(self, sampler: SamplerRow) -> None:
        folder = Path(sampler.folder) if sampler.folder else None
        if folder is not None and not folder.is_dir():
            raise InvalidRequest(f"the weights of sampler {sampler.sampler_id!r} were deleted")
        await self.lanes.call(self.engine.load_sampler, sampler.weights_id, sampler.base_model, folder)

    async def reload_sampler(self, sampler: SamplerRow) -> None:
        """Gives the engine the weights anew, which were saved in the place of older ones."""
        self._loading.pop(sampler.weights_id, None)
        await self.load_sampler(sampler)
