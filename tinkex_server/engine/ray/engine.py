"""`RayEngine`: trainers and samplers on a Ray cluster."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

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
from tinkex_server.engine.ray.cluster import connect, describe_cluster
from tinkex_server.engine.ray.crew import REMOTE_ACTOR, Crew, actor_options
from tinkex_server.engine.ray.folders import Files, read_folder, write_folder
from tinkex_server.engine.ray.library import ray
from tinkex_server.engine.ray.sampler_pool import SamplerPool
from tinkex_server.engine.ray.settings import RaySettings
from tinkex_server.engine.ray.supervisor import Supervisor
from tinkex_server.engine.ray.trainer import Trainer
from tinkex_server.loop_calls import call_on_loop

T = TypeVar("T")


class RayEngine:
    """An engine that has, for each base model, a trainer and a pool of samplers, each of them an
    actor with an engine of this base model alone. Ray decides where they run.

    All calls are made from one event loop, in a thread of this engine. Saved weights travel through
    Ray's object store, since the nodes of a cluster share no disk.

    When a trainer is lost, the models in training of its base model are lost with it. When a
    sampler is lost, its samples fail, and the others go on. Both are made anew.

    Args:
        factories: by the name of each base model, what creates an engine with that model. It is
            pickled, and called on other machines.
        base_models: the base models.
        settings: what the user chose.
        trainer_factories: in the place of `factories`, what creates the engines that train. Several
            replicas need engines such as `tinkex_server.engine.torch.replica.ReplicaEngine`.
        pauses, hang_timeouts: see `tinkex_server.engine.process.engine.ProcessEngine`.
    """

    def __init__(
        self,
        factories: Mapping[str, EngineFactory],
        base_models: Sequence[ModelInfo],
        settings: RaySettings,
        *,
        trainer_factories: Mapping[str, EngineFactory] | None = None,
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
        self._trainers: dict[str, Trainer] = {}  # by base model, as the next
        self._pools: dict[str, SamplerPool] = {}
        self._model_bases: dict[str, str] = {}
        self._sampler_bases: dict[str, str] = {}
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
        self._check_base(base_model)
        files = read_folder(folder) if folder else None
        self._call(
            lambda: self._pools[base_model].load(sampler_id, None if files is None else _put(files))
        )
        self._sampler_bases[sampler_id] = base_model

    def unload_sampler(self, sampler_id: str) -> None:
        base = self._sampler_bases.pop(sampler_id, None)
        if base is not None:
            self._call(partial(self._unload_sampler, base, sampler_id))

    def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None = None
    ) -> Future[SampleResult]:
        return asyncio.run_coroutine_threadsafe(
            self._sample(sampler_id, spec, on_token), self._loop
        )

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
        return asyncio.run_coroutine_threadsafe(self._once_connected(work), self._loop).result()

    # On the loop.

    async def _once_connected(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        await self._connected.wait()
        if self._unusable:
            raise EngineDied(*self._unusable.args)
        return await work()

    async def _sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None
    ) -> SampleResult:
        base = self._sampler_bases.get(sampler_id)
        if base is None:
            raise InvalidRequest(f"unknown sampler {sampler_id!r}")
        return await self._pools[base].sample(sampler_id, spec, on_token)

    async def _unload_sampler(self, base: str, sampler_id: str) -> None:
        self._pools[base].unload(sampler_id)

    def _run(self) -> None:
        """Runs the loop. Ray is connected from this thread, which lives as long as the engine."""
        asyncio.set_event_loop(self._loop)
        disconnect: Callable[[], None] | None = None
        try:
            chosen = self._settings
            cpus = chosen.train_cpus * chosen.train_replicas + chosen.samplers
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
            trainer = partial(
                self._new_crew,
                f"the trainer of {base}",
                self._trainer_factories[base],
                chosen.train_cpus,
                chosen.train_replicas,
            )
            self._trainers[base] = Trainer(trainer, partial(self._report_loss, base), self._pauses)
            samplers = [
                partial(self._new_crew, f"sampler {number} of {base}", factory, 1.0)
                for number in range(1, chosen.samplers + 1)
            ]
            self._pools[base] = SamplerPool(base, samplers, self._pauses)

    def _new_crew(self, name: str, factory: EngineFactory, cpus: float, size: int = 1) -> Crew:
        gpus = self._settings.train_gpus
        options = actor_options(cpus, gpus)
        actors = [REMOTE_ACTOR.options(**options).remote(factory) for _ in range(size)]
        demand = f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
        if size > 1:
            demand = f"{size} times {demand}"
        return Crew(name, actors, demand, self._hang_timeouts)

    def _supervisors(self) -> Sequence[Supervisor]:
        return [
            *(trainer.supervisor for trainer in self._trainers.values()),
            *(part for pool in self._pools.values() for part in pool.supervisors),
        ]

    async def _report_ready(self) -> None:
        """Completes `ready` when each base model has its trainer and a sampler."""
        try:
            runs_on: set[str] = set()
            for base, trainer in self._trainers.items():
                runs_on.add(await trainer.supervisor.ready)
                await self._pools[base].first_ready()
        except EngineDied as error:
            self._fail_start(error)
            return
        except asyncio.CancelledError:
            self._fail_start(EngineDied("the engine was closed"))
            raise
        number = self._settings.samplers
        self.ready.set_result(
            f"{describe_cluster()}, {number} sampler{'' if number == 1 else 's'} for each "
            f"model, {' and '.join(sorted(runs_on))}"
        )

    def _fail_start(self, error: EngineDied) -> None:
        self._unusable = error
        with suppress(InvalidStateError):
            self.ready.set_exception(EngineDied(*error.args))

    def _fail_all(self, error: EngineDied) -> None:
        self._fail_start(error)
        for trainer in self._trainers.values():
            trainer.supervisor.close()
        for pool in self._pools.values():
            pool.close(error)

    def _report_loss(self, base: str, text: str, resume: Callable[[], None] | None) -> None:
        if self._watcher:
            self._watcher(EngineExit(text, resume and partial(self._resume, resume), base))
        elif resume:
            resume()

    def _resume(self, resume: Callable[[], None]) -> None:  # on a thread of the server
        call_on_loop(self._loop, resume)


def _put(files: Files) -> Any:
    return ray.put(files)
