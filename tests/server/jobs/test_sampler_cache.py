"""Sampler weights are loaded and freed in order, whatever the order of their uses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path

from attrs import define, field

from tests.support.recording_engine import RecordingEngine
from tinkex_server.data_dir.folders import Folders
from tinkex_server.jobs.lanes import Lanes
from tinkex_server.jobs.sampler_cache import SamplerCache
from tinkex_server.store import SamplerRow, Store

ROW = SamplerRow("s", "session", "fake/base", None, None)


@define(eq=False)
class SlowToFree(RecordingEngine):
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


@define(eq=False)
class SlowToLoad(RecordingEngine):
    """An engine whose loads wait until the test lets them go on, and which keeps the folder that
    each of its weights is from.
    """

    begun: threading.Semaphore = field(factory=lambda: threading.Semaphore(0))
    gates: dict[str, threading.Event] = field(factory=dict[str, threading.Event])
    """The gates of loads, by the name of the folder."""
    loaded: dict[str, str] = field(factory=dict[str, str])

    def load_sampler(self, sampler_id: str, base_model: str, folder: Path | None) -> None:
        name = folder.name if folder else ""
        self.begun.release()
        assert self.gates[name].wait(10)
        super().load_sampler(sampler_id, base_model, folder)
        self.loaded[sampler_id] = name


def _run(
    engine: SlowToLoad,
    folder: Path,
    work: Callable[[SamplerCache], Coroutine[None, None, None]],
) -> None:
    async def with_lanes(store: Store) -> None:
        lanes = Lanes()
        await work(SamplerCache(engine, store, lanes, Folders(folder), most=8))
        await lanes.close()

    with closing(Store(folder / "tinkex.db")) as store:
        asyncio.run(with_lanes(store))


def test_weights_whose_first_sample_is_cancelled_just_as_they_are_loaded_can_be_freed(
    tmp_path: Path,
) -> None:
    engine = SlowToLoad()
    engine.gates[""] = threading.Event()

    async def work(samplers: SamplerCache) -> None:
        sample = asyncio.create_task(samplers.load(ROW))
        await asyncio.to_thread(engine.begun.acquire)
        loading = samplers._loading["s"]
        loading.add_done_callback(lambda _: sample.cancel())
        engine.gates[""].set()
        await asyncio.wait([sample])
        assert sample.cancelled()
        samplers.free("s")
        await asyncio.wait(samplers._freeing.values())
        assert not engine.samplers

    _run(engine, tmp_path, work)


def test_weights_that_replace_others_are_loaded_after_those(tmp_path: Path) -> None:
    """Or the older ones would stay, if they take longer to load."""
    engine = SlowToLoad()
    rows: list[SamplerRow] = []
    for name in ("old", "new"):
        engine.gates[name] = threading.Event()
        (tmp_path / name).mkdir()
        rows.append(SamplerRow("s", "session", "fake/base", None, name, "model"))
    engine.gates["new"].set()

    async def work(samplers: SamplerCache) -> None:
        older = asyncio.create_task(samplers.load(rows[0]))
        await asyncio.to_thread(engine.begun.acquire)
        newer = asyncio.create_task(samplers.reload(rows[1]))
        await asyncio.sleep(0.05)  # enough time for the load, if it did not wait for the older one
        engine.gates["old"].set()
        await asyncio.gather(older, newer)
        assert engine.loaded == {"model:inflight": "new"}

    _run(engine, tmp_path, work)
