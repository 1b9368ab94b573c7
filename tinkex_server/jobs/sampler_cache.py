"""`SamplerCache`: which weights the engine holds to sample from."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict

from tinkex_server import checkpoint_path
from tinkex_server.data_dir import digests
from tinkex_server.data_dir.folders import Folders
from tinkex_server.engine.interface import Engine, EngineDied, InvalidRequest
from tinkex_server.jobs.lanes import Lanes, LanesClosed
from tinkex_server.store import SamplerRow, Store

logger = logging.getLogger("tinkex.local")


class SamplerCache:
    """Weights by the engine's name for them. When there are too many, those not used for longest
    are freed; they are loaded again when they are asked for. To be used on the event loop's thread.
    """

    def __init__(
        self, engine: Engine, store: Store, lanes: Lanes, folders: Folders, most: int
    ) -> None:
        self._engine = engine
        self._store = store
        self._lanes = lanes
        self._folders = folders
        self._most = most
        self._loading: OrderedDict[str, asyncio.Future[None]] = (
            OrderedDict()
        )  # those used last at the end; done once they are there
        self._freeing: dict[str, asyncio.Future[None]] = {}

    async def load(self, sampler: SamplerRow) -> None:
        """Makes sure that the engine has the weights. Those who ask at once wait for one
        loading.
        """
        name = sampler.weights_id
        loading: asyncio.Future[None] | None = None
        # it may be freed by the time that this goes on
        while loading is None or self._loading.get(name) is not loading:
            loading = self._begin(sampler)
            try:
                await asyncio.shield(loading)
            except BaseException:
                # it failed: whoever comes next tries anew
                if loading.done() and self._loading.get(name) is loading:
                    del self._loading[name]
                raise

    async def reload(self, sampler: SamplerRow) -> None:
        """Gives the engine the weights anew, which were saved in the place of older ones."""
        self._loading.pop(sampler.weights_id, None)
        await self.load(sampler)

    def free(self, name: str) -> None:
        """Frees the memory, once the samples that began have ended."""
        if loading := self._loading.pop(name, None):
            self._freeing[name] = asyncio.ensure_future(self._free(name, loading))

    def forget_all(self) -> None:
        """The engine died."""
        self._loading.clear()

    def _begin(self, sampler: SamplerRow) -> asyncio.Future[None]:
        name = sampler.weights_id
        if name not in self._loading:
            self._loading[name] = asyncio.ensure_future(self._load(sampler))
            self._make_room()
        self._loading.move_to_end(name)
        return self._loading[name]

    def _make_room(self) -> None:
        there = [name for name, loading in self._loading.items() if loading.done()]
        for name in there[: max(0, len(self._loading) - self._most)]:
            self.free(name)

    async def _load(self, sampler: SamplerRow) -> None:
        if freeing := self._freeing.get(sampler.weights_id):
            await asyncio.wait([freeing])
        load, name = self._engine.load_sampler, self._folder_of(sampler)
        if name is None:
            await self._lanes.call(load, sampler.weights_id, sampler.base_model, None)
            return
        with self._folders.hold(name) as folder:
            if not folder.is_dir():
                raise _deleted(sampler)
            await self._lanes.call(digests.check, folder)
            await self._lanes.call(load, sampler.weights_id, sampler.base_model, folder)

    def _folder_of(self, sampler: SamplerRow) -> str | None:
        if sampler.model_path is None:
            return sampler.folder
        saved = self._store.checkpoints.get(checkpoint_path.parse(sampler.model_path))
        if saved is None:
            raise _deleted(sampler)
        return saved.folder

    async def _free(self, name: str, loading: asyncio.Future[None]) -> None:
        await asyncio.wait([loading])
        try:
            await self._lanes.call(self._engine.unload_sampler, name)
        except (EngineDied, LanesClosed):
            logger.debug("the weights %s went with the engine", name)
        finally:
            # it may have been loaded and freed again meanwhile
            if self._freeing.get(name) is asyncio.current_task():
                del self._freeing[name]


def _deleted(sampler: SamplerRow) -> InvalidRequest:
    return InvalidRequest(f"the weights of sampler {sampler.sampler_id!r} were deleted")
