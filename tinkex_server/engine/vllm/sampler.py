"""`VllmSampler`: loads adapters into one or more vLLMs and samples there."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from attrs import frozen

from tinkex_server.engine.generations import Generations
from tinkex_server.engine.interface import (
    InvalidRequest,
    LoraShape,
    ModelInfo,
    OnToken,
    SampleResult,
    SampleSpec,
    unknown_base_model,
)
from tinkex_server.engine.least_loaded import least_loaded
from tinkex_server.engine.process.hang_detector import HangTimeouts
from tinkex_server.engine.process.restart import PAUSES
from tinkex_server.engine.vllm.adapters import Adapter, AdapterFolders
from tinkex_server.engine.vllm.errors import CallLost, SamplerFailed, SamplerGone, WrongAnswer
from tinkex_server.engine.vllm.replica import Life, Replica
from tinkex_server.engine.vllm.settings import VllmSettings
from tinkex_server.engine.vllm.supervisor import BaseArguments, Start, monitor, supervise

logger = logging.getLogger("tinkex.local.vllm")
T = TypeVar("T")
_CLOSED = "the engine was closed"


@frozen(kw_only=True)
class Patience:
    """The bounds on how long, and how often, the sampler tries."""

    attempts: int = 3
    """The number of times that a sample is asked for."""
    down: float = 300.0
    """The seconds to wait for a vLLM that somebody else runs. One that the server starts is waited
    for until it runs or is given up.
    """
    pauses: Sequence[float] = PAUSES
    """The pauses before restarts, as in `Start`."""
    restarts: bool = True
    """Whether a vLLM that died is restarted. If not, all later calls raise `SamplerGone`."""
    hang_timeouts: HangTimeouts = HangTimeouts()


@frozen(eq=False)
class _Weights:
    """The weights that a sampler id stands for: a base model, with or without an adapter."""

    base_model: str
    adapter: Adapter | None


class VllmSampler:
    """A sampler over vLLM. Its methods may be called from any thread; all I/O is on one event loop
    in a thread of its own. See `tinkex_server.engine.interface.Engine` for its methods.

    Args:
        models: the base models.
        sources: the folder or hub id of each, by name.
        settings: where vLLM is.
        training_ready: the `ready` of the training engine, whose precision vLLM takes.
    """

    def __init__(
        self,
        models: Sequence[ModelInfo],
        sources: Mapping[str, str],
        settings: VllmSettings,
        training_ready: Future[str],
        patience: Patience | None = None,
    ) -> None:
        self.ready: Future[str] = Future()
        self._models = {model.name: model for model in models}
        self._sources = sources
        self._settings = settings
        self._training_ready = training_ready
        self._patience = patience or Patience()
        self._folders = AdapterFolders(settings.adapters)
        self._generations = Generations(self._forget)
        self._lock = threading.Lock()  # guards the next
        self._closed = False
        # the rest is used on the loop's thread alone
        self._replicas: dict[str, list[Replica]] = {name: [] for name in self._models}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="tinkex-vllm", daemon=True
        )
        self._thread.start()
        self._call(self._start())

    def warnings(self, lora: LoraShape) -> Sequence[str]:
        return self._settings.warnings(lora)

    def load_sampler(self, sampler_id: str, base_model: str, folder: Path | None) -> None:
        if base_model not in self._models:
            raise unknown_base_model(base_model, self._models)
        number = self._generations.next()
        adapter = self._folders.add(folder) if folder else None
        if adapter:
            try:
                self._call(self._load(base_model, adapter)).result()
            except CancelledError as error:
                raise SamplerFailed(_CLOSED) from error
            except BaseException:
                self._folders.remove(adapter)
                raise
        self._generations.put(sampler_id, number, _Weights(base_model, adapter))

    def unload_sampler(self, sampler_id: str) -> None:
        self._generations.remove(sampler_id)

    def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None = None
    ) -> Future[SampleResult]:
        try:  # at once, so that the weights are not dropped before the sample begins
            weights = self._generations.take(sampler_id)
        except InvalidRequest as error:
            unknown: Future[SampleResult] = Future()
            unknown.set_exception(error)
            return unknown
        sample = self._call(self._persistently(weights, spec, on_token))
        sample.add_done_callback(lambda _: self._generations.give_back(weights))
        return sample

    @property
    def failure(self) -> SamplerGone | None:
        """The reason why there will be no vLLM again for one of the base models, if so."""
        failures = (_failure_of(replicas) for replicas in self._replicas.values())
        return next((failure for failure in failures if failure), None)

    def close(self) -> None:
        """Ends samples under way, and the vLLMs that this sampler has started. A second call does
        nothing.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            stopped = asyncio.run_coroutine_threadsafe(self._stop(), self._loop)
        stopped.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._folders.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if self._closed:
                coroutine.close()
                raise SamplerFailed(_CLOSED)
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _forget(self, weights: _Weights) -> None:
        """Has vLLM forget an adapter."""
        with self._lock:
            if weights.adapter and not self._closed:
                asyncio.run_coroutine_threadsafe(self._drop(weights.adapter), self._loop)

    def _begin(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self) -> None:
        try:
            runs_on = await asyncio.wrap_future(self._training_ready)
        except asyncio.CancelledError:
            self.ready.set_exception(SamplerFailed(_CLOSED))
            raise
        except Exception as error:  # noqa: BLE001  handed on to whoever waits for this sampler
            self.ready.set_exception(error)
            return
        for info in self._models.values():
            for replica, work in self._new_replicas(info, runs_on):
                self._replicas[info.name].append(replica)
                self._begin(self._supervise(replica, work))
        try:
            await self._await_first_lives()
        except SamplerFailed as error:
            self.ready.set_exception(error)
        except asyncio.CancelledError:
            self.ready.set_exception(SamplerFailed(_CLOSED))
            raise
        else:
            self.ready.set_result(self._describe())

    async def _supervise(
        self, replica: Replica, work: Callable[[Replica], Awaitable[None]]
    ) -> None:
        """Supervises a replica. Whatever ends that, nobody waits for the replica in vain."""
        try:
            await work(replica)
        except Exception as error:
            logger.exception("%s is not watched any more", replica.label)
            replica.fail(SamplerFailed(f"{replica.label} was given up: {error}"))

    def _new_replicas(
        self, info: ModelInfo, runs_on: str
    ) -> list[tuple[Replica, Callable[[Replica], Awaitable[None]]]]:
        timeouts = self._patience.hang_timeouts
        if not self._settings.python:
            replicas = [
                (Replica(f"the vLLM at {url}", info, self._changed.set, timeouts), url)
                for url in self._settings.urls
            ]
            return [(replica, partial(monitor, url=url)) for replica, url in replicas]
        base = BaseArguments(
            source=self._sources[info.name],
            context=info.max_context_length,
            max_lora_rank=self._settings.max_lora_rank or 0,
            precision=precision_of(runs_on),
        )
        start = Start(
            python=self._settings.python,
            arguments=base.arguments(self._settings.args),
            environment=os.environ,
            pauses=self._patience.pauses,
            restarts=self._patience.restarts,
        )
        replica = Replica(f"the vLLM of {info.name}", info, self._changed.set, timeouts)
        return [(replica, partial(supervise, start=start))]

    async def _await_first_lives(self) -> None:
        """Waits until every replica was up once. Raises `SamplerFailed` if one cannot be, or serves
        another model.
        """
        bound = None if self._settings.python else self._patience.down
        try:
            async with asyncio.timeout(bound):
                while late := self._never_up():
                    for replica in late:
                        if replica.failure:
                            raise SamplerFailed(*replica.failure.args)
                    await self._next_change()
        except TimeoutError:
            late = self._never_up()
            raise SamplerFailed(
                f"{late[0].label} has not answered for {bound:.0f} s: check the address of "
                "--vllm-url, and the log of that vLLM"
            ) from None
        self._sort_by_model()

    def _sort_by_model(self) -> None:
        """Gives each of the running vLLMs to the base model that it serves."""
        if self._settings.python or len(self._models) == 1:
            return
        for name, replicas in self._replicas.items():
            wanted = {name, self._sources[name]}
            fitting = [
                one for one in replicas if one.base and {one.base.base, one.base.root} & wanted
            ]
            if not fitting:
                raise SamplerFailed(
                    f"none of the vLLMs at {', '.join(self._settings.urls)} serves {name}: start "
                    f"one with --served-model-name {name}"
                )
            self._replicas[name] = fitting

    def _never_up(self) -> list[Replica]:
        return [replica for replica in self._all() if replica.base is None]

    def _all(self) -> list[Replica]:
        return [replica for replicas in self._replicas.values() for replica in replicas]

    def _describe(self) -> str:
        versions = sorted({replica.version for replica in self._all()})
        count = len(self._settings.urls)
        several = f" ({count} replicas)" if count > 1 else ""
        return f"vLLM {' and '.join(versions)}{several}"

    async def _load(self, base_model: str, adapter: Adapter) -> None:
        """Loads an adapter where its first samples will probably go, so that a wrong one is noticed
        now.
        """
        lost: CallLost | None = None
        for _ in range(self._patience.attempts):
            life = (await self._choose(base_model, adapter))[1]
            try:
                await life.ensure(adapter)
                return
            except CallLost as error:
                lost = error
                await self._pause_after(life)
        raise SamplerFailed(f"vLLM did not load an adapter: {lost}")

    async def _persistently(
        self, weights: _Weights, spec: SampleSpec, on_token: OnToken | None
    ) -> SampleResult:
        """Asks for a sample until vLLM answers, since samples change nothing."""
        lost: CallLost | None = None
        for _ in range(self._patience.attempts):
            replica, life = await self._choose(weights.base_model, weights.adapter)
            try:
                return await replica.sample(weights.adapter, spec, on_token)
            except CallLost as error:
                lost = error
                logger.info("a sample of %s is asked for again: %s", weights.base_model, error)
                await self._pause_after(life)
        raise SamplerFailed(
            f"vLLM failed a sample {self._patience.attempts} times, and it is not asked again: "
            f"{lost}. See the log of vLLM"
        )

    async def _pause_after(self, life: Life) -> None:
        """Waits a little after a lost call, so that the death of its vLLM is noticed meanwhile."""
        for _ in range(10):
            await asyncio.sleep(0.05)
            if all(replica.life is not life for replica in self._all()):
                return
        if await life.api.health() == "gone":
            for replica in self._all():
                if replica.life is life:
                    replica.life = None

    async def _choose(self, base_model: str, adapter: Adapter | None) -> tuple[Replica, Life]:
        """Waits until a vLLM can be asked. Raises `SamplerFailed` if none will be."""
        replicas = self._replicas[base_model]
        try:
            async with asyncio.timeout(self._patience.down if self._settings.urls else None):
                while True:
                    up = [(one, one.life) for one in replicas if one.life]
                    if up:
                        loads = [(one.running, life.has(adapter)) for one, life in up]
                        return up[least_loaded(loads)]
                    if failure := _failure_of(replicas):
                        raise failure
                    await self._next_change()
        except TimeoutError:
            why = "; ".join(f"{one.label} {one.why_down}" for one in replicas)
            raise SamplerFailed(
                f"no vLLM has answered for {self._patience.down:.0f} s ({why}): restart it, then "
                "ask again"
            ) from None

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _drop(self, adapter: Adapter) -> None:
        for replica in self._all():
            if replica.life:
                try:
                    await replica.life.drop(adapter)
                except (CallLost, SamplerFailed, WrongAnswer, InvalidRequest) as error:
                    logger.info("%s did not unload an adapter: %s", replica.label, error)
        await asyncio.to_thread(partial(self._folders.remove, adapter))

    async def _stop(self) -> None:
        current = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not current]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def _failure_of(replicas: Sequence[Replica]) -> SamplerGone | None:
    """Returns why none of these will be up again, if so."""
    failed = [one.failure for one in replicas if one.failure]
    return SamplerGone(*failed[0].args) if replicas and len(failed) == len(replicas) else None


def precision_of(runs_on: str) -> str:
    """Returns the precision of the training engine, "float32" or "bfloat16", from the result of its
    `ready`.
    """
    found = re.search(r"float32|bfloat16", runs_on)
    return found[0] if found else "auto"
