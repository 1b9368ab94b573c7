"""`SamplerCache`: the weights that the engine holds in memory for sampling."""

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
    """A cache of sampler weights in the engine, by the engine's name for them. The least recently
    used are freed when there are too many, and loaded again when they are needed. To be used on the
    event loop's thread.
    """

    def __init__(
        self, engine: Engine, store: Store, lanes: Lanes, folders: Folders, most: int
    ) -> None:
        self._engine = engine
        self._store = store
        self._lanes = lanes
        self._folders = folders
        self._most = most
        # most recently used last; a future is done once the weights are loaded
        self._loading: OrderedDict[str, asyncio.Future[None]] = OrderedDict()
        self._freeing: dict[str, asyncio.Future[None]] = {}

    async def load(self, sampler: SamplerRow) -> None:
        """Loads the weights into the engine unless it has them. Concurrent calls share one load."""
        name = sampler.weights_id
        loading: asyncio.Future[None] | None = None
        # the weights may be freed before this task runs again
        while loading is None or self._loading.get(name) is not loading:
            loading = self._begin(sampler)
            try:
                await asyncio.shield(loading)
            except BaseException:
                # the next call tries again; but a caller may also be cancelled just as they are
                # loaded
                if _has_failed(loading) and self._loading.get(name) is loading:
                    del self._loading[name]
                raise

    async def reload(self, sampler: SamplerRow) -> None:
        """Loads weights that were saved in the place of older ones under the same name."""
        self._begin(sampler, after=self._loading.pop(sampler.weights_id, None))
        await self.load(sampler)

    def free(self, name: str) -> None:
        """Frees the weights' memory once the samples under way have ended."""
        if loading := self._loading.pop(name, None):
            self._freeing[name] = asyncio.ensure_future(self._free(name, loading))

    def forget_all(self) -> None:
        """Empties the cache after the engine has died."""
        self._loading.clear()

    def _begin(
        self, sampler: SamplerRow, after: asyncio.Future[None] | None = None
    ) -> asyncio.Future[None]:
        """Begins a load unless there is one. If `after` is given, it follows that older load, which
        could otherwise end later and leave the older weights.
        """
        name = sampler.weights_id
        if name not in self._loading:
            self._loading[name] = asyncio.ensure_future(self._load(sampler, after))
            self._make_room()
        self._loading.move_to_end(name)
        return self._loading[name]

    def _make_room(self) -> None:
        loaded = [name for name, loading in self._loading.items() if loading.done()]
        for name in loaded[: max(0, len(self._loading) - self._most)]:
            self.free(name)

    async def _load(self, sampler: SamplerRow, after: asyncio.Future[None] | None) -> None:
        for earlier in (self._freeing.get(sampler.weights_id), after):
            if earlier:
                await asyncio.wait([earlier])
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
            logger.debug("the weights %s were freed with the engine's memory", name)
        finally:
            # the weights may have been loaded and freed again meanwhile
            if self._freeing.get(name) is asyncio.current_task():
                del self._freeing[name]


def _has_failed(loading: asyncio.Future[None]) -> bool:
    return loading.done() and (loading.cancelled() or loading.exception() is not None)


def _deleted(sampler: SamplerRow) -> InvalidRequest:
    return InvalidRequest(f"the weights of sampler {sampler.sampler_id!r} were deleted")
