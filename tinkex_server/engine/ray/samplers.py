"""`RaySamplers`: the part of an engine that samples, by pools on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tinkex_server.engine.interface import (
    InvalidRequest,
    LoraShape,
    OnToken,
    SampleResult,
    SampleSpec,
    unknown_base_model,
)
from tinkex_server.engine.ray.folders import read_folder
from tinkex_server.engine.ray.library import ray
from tinkex_server.engine.ray.sampler_pool import SamplerPool
from tinkex_server.engine.vllm.settings import VllmSettings

T = TypeVar("T")


class OnLoop(Protocol):
    """A function that starts work on the loop of the pools, once they are there."""

    def __call__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]: ...


class RaySamplers:
    """A pool of samplers for each base model. See `tinkex_server.engine.interface.Engine` for the
    methods, which may be called from any thread.
    """

    def __init__(self, on_loop: OnLoop) -> None:
        self.pools: dict[str, SamplerPool] = {}
        """The pool of each base model; complete before the first work is started."""
        self._on_loop = on_loop
        self._bases: dict[str, str] = {}  # by sampler id

    def load_sampler(self, sampler_id: str, base_model: str, folder: Path | None) -> None:
        files = read_folder(folder) if folder else None

        async def load() -> None:
            if base_model not in self.pools:
                raise unknown_base_model(base_model, self.pools)
            reference = None if files is None else ray.put(files)
            await self.pools[base_model].load(sampler_id, reference)

        self._on_loop(load).result()
        self._bases[sampler_id] = base_model

    def unload_sampler(self, sampler_id: str) -> None:
        if base := self._bases.pop(sampler_id, None):
            self._on_loop(partial(self._unload, base, sampler_id)).result()

    def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None = None
    ) -> Future[SampleResult]:
        return self._on_loop(partial(self._sample, sampler_id, spec, on_token))

    async def _unload(self, base: str, sampler_id: str) -> None:
        self.pools[base].unload(sampler_id)

    async def _sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None
    ) -> SampleResult:
        base = self._bases.get(sampler_id)
        if base is None:
            raise InvalidRequest(f"unknown sampler {sampler_id!r}")
        return await self.pools[base].sample(sampler_id, spec, on_token)


class VllmSamplers(RaySamplers):
    """Pools whose samplers have a vLLM each. The engine that placed them ends them."""

    def __init__(self, on_loop: OnLoop, settings: VllmSettings) -> None:
        super().__init__(on_loop)
        self.ready: Future[str] = Future()
        self.ready.set_running_or_notify_cancel()  # nobody may cancel it
        self._settings = settings

    def warnings(self, lora: LoraShape) -> Sequence[str]:
        return self._settings.warnings(lora)

    def close(self) -> None:
        """Does nothing."""
