"""Sampler weights are loaded and freed in order, whatever the order of their uses."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from pathlib import Path

from attrs import define, field

from tests.support.recording_engine import FakeEngine
from tinkex_server.data_dir.folders import Folders
from tinkex_server.jobs.lanes import Lanes
from tinkex_server.jobs.sampler_cache import SamplerCache
from tinkex_server.store import SamplerRow, Store

ROW = SamplerRow("s", "session", "fake/base", None, None)


@define(eq=False)
class SlowToFree(FakeEngine):
    """An engine whose unloads wait until the test lets them go on."""

    begun: threading.Semaphore = field(factory=lambda: threading.Semaphore(0))
    go: threading.Semaphore = field(factory=lambda: threading.Semaphore(0))

    def unload_sampler(self, sampler_id: str) -> None:
        self.begun.release()
        assert self.go.acquire(timeout=10)
        super().unload_sampler(sampler_id)


async def _freed_twice(engine: SlowToFree, store: Store, folder: Path) -> None:
    lanes = Lanes()
    samplers = SamplerCache(engine, store, lanes, Folders(folder), most=8)
    await samplers.load(ROW)
    samplers.free("s")
    again = asyncio.create_task(samplers.load(ROW))
    await asyncio.to_thread(engine.begun.acquire)
    samplers.free("s")  # waits for the first unload
    engine.go.release()
    await asyncio.to_thread(engine.begun.acquire)
    await asyncio.sleep(0.05)  # enough time for the load, if it did not wait for the second unload
    assert engine.count("load_sampler") == 2
    engine.go.release()
    await again
    assert "s" in engine.samplers
    assert not samplers._freeing
    await lanes.close()


def test_weights_that_are_freed_again_before_they_are_gone_are_loaded_after_that(
    tmp_path: Path,
) -> None:
    with closing(Store(tmp_path / "tinkex.db")) as store:
        asyncio.run(_freed_twice(SlowToFree(), store, tmp_path))
