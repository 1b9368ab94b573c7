"""`RayEngine`: trainers and samplers on a Ray cluster."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from attrs import evolve, frozen

from tinkex_server.engine.interface import (
    ADAPTER_FILES,
    CustomLoss,
    EngineDied,
    EngineExit,
    Example,
    InvalidRequest,
    LoraShape,
    LossResult,
    ModelInfo,
    OnToken,
    OptimizerKind,
    OptimizerSettings,
    SampleResult,
    SampleSpec,
    unknown_base_model,
)
from tinkex_server.engine.process.hang_detector import HangTimeouts
from tinkex_server.engine.process.messages import EngineFactory
from tinkex_server.engine.process.restart import PAUSES
from tinkex_server.engine.ray.actor import ActorFactory
from tinkex_server.engine.ray.actor_group import REMOTE_ACTOR, ActorGroup, actor_options
from tinkex_server.engine.ray.cluster import connect, describe_cluster
from tinkex_server.engine.ray.folders import Files, read_folder, write_folder
from tinkex_server.engine.ray.library import ray
from tinkex_server.engine.ray.sampler_pool import SamplerPool
from tinkex_server.engine.ray.samplers import RaySamplers, VllmSamplers
from tinkex_server.engine.ray.settings import RaySettings
from tinkex_server.engine.ray.supervisor import Supervisor
from tinkex_server.engine.ray.trainer import Trainer
from tinkex_server.engine.vllm.settings import VllmSettings
from tinkex_server.loop_calls import call_on_loop

T = TypeVar("T")


@frozen(kw_only=True)
class VllmOnRay:
    """Sampling by vLLM in the place of torch."""

    settings: VllmSettings
    factories: Mapping[str, ActorFactory]
    """The functions that create a sampler with a vLLM, given what the trainer runs on, by the name
    of the base model; empty if the vLLMs are somewhere else.
    """


class RayEngine:
    """An engine that has, for each base model, a trainer and a pool of samplers, each of them an
    actor with an engine of this base model alone. Ray decides where they run.

    With `vllm`, the samplers in the pool are not part of this engine, but are its `vllm_samplers`.
    Prompts are then scored by the trainers, so that no actor holds a base model for this alone.

    All calls are made from one event loop, in a thread of this engine. Saved weights travel through
    Ray's object store, since the nodes of a cluster share no disk.

    When a trainer is lost, the models in training of its base model are lost with it. When a
    sampler is lost, others take its samples. Both are made anew.

    Args:
        factories: by the name of each base model, what creates an engine with that model. It is
            pickled, and called on other machines.
        base_models: the base models.
        settings: what the user chose.
        trainer_factories: in the place of `factories`, what creates the engines that train. Several
            replicas need engines such as `tinkex_server.engine.torch.replica.ReplicaEngine`.
        vllm: the vLLMs that sample.
        pauses, hang_timeouts: see `tinkex_server.engine.process.engine.ProcessEngine`.
    """

    def __init__(
        self,
        factories: Mapping[str, EngineFactory],
        base_models: Sequence[ModelInfo],
        settings: RaySettings,
        *,
        trainer_factories: Mapping[str, EngineFactory] | None = None,
        vllm: VllmOnRay | None = None,
        pauses: Sequence[float] = PAUSES,
        hang_timeouts: HangTimeouts | None = None,
    ) -> None:
        self.base_models = base_models
        self.ready: Future[str] = Future()
        self.ready.set_running_or_notify_cancel()  # many wait for it, and none may cancel it
        self._factories = factories
        self._trainer_factories = trainer_factories or factories
        self._settings = settings
        self._pauses = pauses
        self._hang_timeouts = hang_timeouts or HangTimeouts()
        self._watcher: Callable[[EngineExit], None] | None = None
        self._trainers: dict[str, Trainer] = {}  # by base model
        self._model_bases: dict[str, str] = {}
        self._samplers = RaySamplers(self._start)
        self._vllm = vllm
        self.vllm_samplers = VllmSamplers(self._start, vllm.settings) if vllm else None
        self._unusable: EngineDied | None = None
        self._loop = asyncio.new_event_loop()
        self._connected = asyncio.Event()
        self._closing = asyncio.Event()
        self._close_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="tinkex-ray", daemon=True)
        self._thread.start()

    def create_model(
        self, model_id: str, base_model: str, lora: LoraShape, optimizer: OptimizerKind = "adamw"
    ) -> Sequence[str]:
        self._check_base(base_model)
        warnings = self._call(
            lambda: self._trainers[base_model].create_model(model_id, base_model, lora, optimizer)
        )
        self._model_bases[model_id] = base_model
        return warnings

    def unload_model(self, model_id: str) -> None:
        self._call_trainer(model_id, lambda trainer: trainer.unload_model(model_id))
        self._model_bases.pop(model_id, None)

    def check_loss(self, loss: CustomLoss) -> None:
        self._call(lambda: next(iter(self._trainers.values())).check_loss(loss))

    def forward_backward(
        self,
        model_id: str,
        data: Sequence[Example],
        loss_fn: str | CustomLoss,
        config: Mapping[str, float],
        *,
        backward: bool,
    ) -> LossResult:
        return self._call_trainer(
            model_id,
            lambda trainer: trainer.forward_backward(
                model_id, data, loss_fn, config, backward=backward
            ),
        )

    def optim_step(self, model_id: str, settings: OptimizerSettings) -> Mapping[str, float]:
        return self._call_trainer(model_id, lambda trainer: trainer.optim_step(model_id, settings))

    def save_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        files = self._call_trainer(
            model_id, lambda trainer: trainer.save_model(model_id, optimizer=optimizer)
        )
        write_folder(files, folder)

    def load_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        files = read_folder(folder)
        self._call_trainer(
            model_id, lambda trainer: trainer.load_model(model_id, _put(files), optimizer=optimizer)
        )

    def import_adapter(self, base_model: str, lora: LoraShape, source: Path, folder: Path) -> None:
        self._check_base(base_model)
        files = read_folder(source, ADAPTER_FILES)
        write_folder(
            self._call(
                lambda: self._trainers[base_model].import_adapter(base_model, lora, _put(files))
            ),
            folder,
        )

    def load_sampler(self, sampler_id: str, base_model: str, folder: Path | None) -> None:
        self._samplers.load_sampler(sampler_id, base_model, folder)

    def unload_sampler(self, sampler_id: str) -> None:
        self._samplers.unload_sampler(sampler_id)

    def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None = None
    ) -> Future[SampleResult]:
        return self._samplers.sample(sampler_id, spec, on_token)

    def watch(self, died: Callable[[EngineExit], None]) -> None:
        self._watcher = died

    def close(self) -> None:
        """Ends all actors, and the cluster if this engine has started it."""
        with self._close_lock:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._closing.set)
                self._thread.join()

    # In the calling threads.

    def _check_base(self, base_model: str) -> None:
        if base_model not in self._factories:
            raise unknown_base_model(base_model, self._factories)

    def _call_trainer(self, model_id: str, work: Callable[[Trainer], Coroutine[Any, Any, T]]) -> T:
        base = self._model_bases.get(model_id)
        if base is None:
            raise InvalidRequest(f"unknown model {model_id!r}")
        return self._call(lambda: work(self._trainers[base]))

    def _call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self._start(work).result()

    def _start(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(self._once_connected(work), self._loop)

    # On the loop.

    async def _once_connected(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        await self._connected.wait()
        if self._unusable:
            raise EngineDied(*self._unusable.args)
        return await work()

    def _run(self) -> None:
        """Runs the loop. Ray is connected from this thread, which lives as long as the engine."""
        asyncio.set_event_loop(self._loop)
        disconnect: Callable[[], None] | None = None
        try:
            chosen = self._settings
            samplers = 0 if self._vllm and not self._vllm.factories else chosen.samplers
            cpus = chosen.train_cpus * chosen.train_replicas + samplers
            disconnect = connect(chosen.address, cpus * len(self._factories))
        except Exception as error:  # noqa: BLE001  each call raises it
            self._fail_start(EngineDied(f"the engine could not start: {error}"))
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()
            if disconnect:
                disconnect()

    async def _main(self) -> None:
        """Keeps the actors alive until the engine is closed."""
        if not self._unusable:
            try:
                self._create_actors()
            except Exception as error:  # noqa: BLE001  each call raises it
                self._fail_start(EngineDied(f"the engine could not start: {error}"))
        work = [asyncio.create_task(part.run()) for part in self._supervisors()]
        if not self._unusable:
            work.append(asyncio.create_task(self._report_ready()))
        self._connected.set()
        await self._closing.wait()
        self._fail_all(EngineDied("the engine was closed"))
        for task in work:
            task.cancel()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    def _create_actors(self) -> None:
        chosen = self._settings
        for base, factory in self._factories.items():
            make = partial(
                self._new_group,
                f"the trainer of {base}",
                self._trainer_factories[base],
                chosen.train_cpus,
                chosen.train_replicas,
            )
            on_loss = self._note_trainer_loss if self.vllm_samplers else self._report_loss
            trainer = Trainer(make, partial(on_loss, base), self._pauses)
            self._trainers[base] = trainer
            if self.vllm_samplers is None:
                self._samplers.pools[base] = self._new_pool(base, factory)
                continue
            scorers = self._samplers.pools[base] = SamplerPool(base)
            scorers.add(trainer.supervisor)
            if by_vllm := self._vllm and self._vllm.factories.get(base):
                self.vllm_samplers.pools[base] = self._new_pool(
                    base,
                    by_vllm,
                    after=trainer.supervisor.ready,
                    closes=True,
                    # the actor computes nothing, and watches the vLLM that does
                    hang_timeouts=evolve(self._hang_timeouts, idle=math.inf),
                )

    def _new_pool(self, base: str, factory: ActorFactory, **options: Any) -> SamplerPool:
        pool = SamplerPool(base)
        for number in range(self._settings.samplers):
            name = f"sampler {number + 1} of {base}"
            make = partial(self._new_group, name, factory, 1.0, **options)
            pool.add(Supervisor(make, partial(pool.note_loss, number), self._pauses))
        return pool

    def _new_group(
        self,
        name: str,
        factory: ActorFactory,
        cpus: float,
        size: int = 1,
        *,
        hang_timeouts: HangTimeouts | None = None,
        **options: Any,
    ) -> ActorGroup:
        gpus = self._settings.train_gpus
        placed = REMOTE_ACTOR.options(**actor_options(cpus, gpus))
        actors = [placed.remote(factory) for _ in range(size)]
        demand = f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
        if size > 1:
            demand = f"{size} times {demand}"
        return ActorGroup(name, actors, demand, hang_timeouts or self._hang_timeouts, **options)

    def _pools(self) -> Sequence[SamplerPool]:
        kinds = [self._samplers, self.vllm_samplers] if self.vllm_samplers else [self._samplers]
        return [pool for samplers in kinds for pool in samplers.pools.values()]

    def _supervisors(self) -> Sequence[Supervisor]:
        parts = [trainer.supervisor for trainer in self._trainers.values()]
        parts += [part for pool in self._pools() for part in pool.supervisors]
        return list(dict.fromkeys(parts))  # a trainer may be a sampler as well

    async def _report_ready(self) -> None:
        """Completes `ready` when each base model has its trainer and a sampler, and that of the
        vLLMs when each has one.
        """
        try:
            runs_on: set[str] = set()
            for base, trainer in self._trainers.items():
                runs_on.add(await trainer.supervisor.ready)
                await self._samplers.pools[base].first_ready()
            number = 0 if self.vllm_samplers else self._settings.samplers
            samplers = f"{_count(number, 'sampler')} for each model, " if number else ""
            told = f"{describe_cluster()}, {samplers}{' and '.join(sorted(runs_on))}"
            self.ready.set_result(told)
            if self.vllm_samplers and self.vllm_samplers.pools:
                pools = self.vllm_samplers.pools.values()
                versions = {await pool.first_ready() for pool in pools}
                self.vllm_samplers.ready.set_result(
                    f"{' and '.join(sorted(versions))} in "
                    f"{_count(self._settings.samplers, 'sampler')} for each model"
                )
        except EngineDied as error:
            self._fail_start(error)
        except asyncio.CancelledError:
            self._fail_start(EngineDied("the engine was closed"))
            raise

    def _fail_start(self, error: EngineDied) -> None:
        waiting = [self.ready, *([self.vllm_samplers.ready] if self.vllm_samplers else [])]
        if not self.ready.done():
            self._unusable = error
        for ready in waiting:
            with suppress(InvalidStateError):
                ready.set_exception(EngineDied(*error.args))

    def _fail_all(self, error: EngineDied) -> None:
        self._fail_start(error)
        for trainer in self._trainers.values():
            trainer.supervisor.close()
        for pool in self._pools():
            pool.close(error)

    def _note_trainer_loss(self, base: str, text: str, resume: Callable[[], None] | None) -> None:
        """Has the successor of a trainer that scores prompts load the weights again."""
        load = partial(self._samplers.pools[base].note_loss, 0, text)
        if resume is None:
            load(None)
        self._report_loss(base, text, resume and partial(load, resume))

    def _report_loss(self, base: str, text: str, resume: Callable[[], None] | None) -> None:
        if self._watcher:
            self._watcher(EngineExit(text, resume and partial(self._resume, resume), base))
        elif resume:
            resume()

    def _resume(self, resume: Callable[[], None]) -> None:  # on a thread of the server
        call_on_loop(self._loop, resume)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _put(files: Files) -> Any:
    return ray.put(files)
