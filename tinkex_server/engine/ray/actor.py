"""`EngineActor`: the engine of one base model, in the process of a Ray actor.

Its methods return errors of the engine as values: an error that Ray raises means that the actor, or
the way to it, was lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

from attrs import evolve

from tinkex_server.engine.disaggregated import Sampler
from tinkex_server.engine.interface import (
    Engine,
    EngineGone,
    Example,
    LoraShape,
    LossResult,
    SampleResult,
    SampleSpec,
)
from tinkex_server.engine.owned_folder import OwnedFolder, remove_abandoned
from tinkex_server.engine.ray.folders import Files, read_folder, write_folder
from tinkex_server.engine.remote_errors import RemoteError

T = TypeVar("T")
Outcome: TypeAlias = T | RemoteError
Token: TypeAlias = tuple[int, float]
ActorFactory: TypeAlias = Callable[..., Engine | Sampler]
"""A function that creates the engine of an actor, or only a sampler, given the facts of `start`."""


class EngineActor:
    """An actor whose methods run side by side, on an event loop. It makes its engine in `start`,
    so that a model that cannot be loaded is an error like others, and not the end of an actor.
    """

    def __init__(self, factory: ActorFactory) -> None:
        self._factory = factory
        self._made: Engine | Sampler | None = None
        self._pool = ThreadPoolExecutor(thread_name_prefix="tinkex-engine")

    async def start(self, *facts: str) -> Outcome[str]:
        """Makes the engine, given these facts; returns what it runs on."""
        return await self._in_thread(partial(self._start, *facts))

    async def beat(self, seconds: float) -> Outcome[float]:
        """Returns, after these seconds, the processor time of the process in seconds, or why the
        engine in it will not compute again.
        """
        await asyncio.sleep(seconds)
        failure: EngineGone | None = getattr(self._made, "failure", None)  # only some have it
        return RemoteError.of(failure) if failure else time.process_time()

    async def close(self) -> Outcome[None]:
        """Ends the engine, with the processes that it has started."""
        return await self._in_thread(self._made.close if self._made else lambda: None)

    async def call(self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Calls a method of the engine whose arguments and result mean the same everywhere."""
        return await self._in_thread(partial(getattr(self._engine, method), *args, **kwargs))

    async def compute(
        self,
        method: str,
        model_id: str,
        data: Sequence[Example],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Outcome[LossResult]:
        """Calls `forward_backward`, or `compute_part` of `ReplicaEngine`, with a batch."""

        def compute() -> LossResult:
            own = [_own_copy(example) for example in data]
            return getattr(self._engine, method)(model_id, own, *args, **kwargs)

        return await self._in_thread(compute)

    async def open_store(self, size: int) -> Outcome[tuple[str, int]]:
        """Opens the store by which replicas find each other; returns its host and port."""

        def open_store() -> tuple[str, int]:
            from tinkex_server.engine.ray.library import ray

            engine: Any = self._engine
            host: str = ray.util.get_node_ip_address()
            return host, engine.open_store(host, size)

        return await self._in_thread(open_store)

    async def save_model(self, model_id: str, optimizer: bool) -> Outcome[Files]:
        def save(folder: Path) -> Files:
            self._engine.save_model(model_id, folder / "saved", optimizer=optimizer)
            return read_folder(folder / "saved")

        return await self._in_thread(partial(_in_folder, save))

    async def load_model(self, model_id: str, files: Files, optimizer: bool) -> Outcome[None]:
        def load(folder: Path) -> None:
            write_folder(files, folder)
            self._engine.load_model(model_id, folder, optimizer=optimizer)

        return await self._in_thread(partial(_in_folder, load))

    async def import_adapter(
        self, base_model: str, lora: LoraShape, files: Files
    ) -> Outcome[Files]:
        def convert(folder: Path) -> Files:
            write_folder(files, folder / "source")
            self._engine.import_adapter(base_model, lora, folder / "source", folder / "saved")
            return read_folder(folder / "saved")

        return await self._in_thread(partial(_in_folder, convert))

    async def load_sampler(self, name: str, base_model: str, files: Files | None) -> Outcome[None]:
        def load(folder: Path) -> None:
            if files is not None:
                write_folder(files, folder)
            self._engine.load_sampler(name, base_model, None if files is None else folder)

        return await self._in_thread(partial(_in_folder, load))

    async def sample(self, name: str, spec: SampleSpec) -> Outcome[SampleResult]:
        """Returns a sample. Cancelling the call ends it."""
        return await _outcome(self._engine.sample(name, _own_targets(spec)))

    async def stream(
        self, name: str, spec: SampleSpec
    ) -> AsyncIterator[Token | Outcome[SampleResult]]:
        """Yields each token as soon as it is sampled, and then the result."""
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[Token | None] = asyncio.Queue()

        def put(item: Token | None) -> None:  # on a thread of the engine
            loop.call_soon_threadsafe(items.put_nowait, item)

        sample = self._engine.sample(
            name, _own_targets(spec), lambda token, logprob: put((token, logprob))
        )
        sample.add_done_callback(lambda _: put(None))
        try:
            while (item := await items.get()) is not None:
                yield item
            yield await _outcome(sample)
        finally:
            sample.cancel()

    @property
    def _engine(self) -> Engine:
        assert self._made, "the engine is called before it was started"
        return cast("Engine", self._made)  # nobody trains with a sampler

    def _start(self, *facts: str) -> str:
        remove_abandoned()  # by an actor that was killed, perhaps the one that this one replaces
        self._made = self._factory(*facts)
        return self._made.ready.result()

    async def _in_thread(self, work: Callable[[], T]) -> Outcome[T]:
        return await _outcome(self._pool.submit(work))


async def _outcome(work: Future[T]) -> Outcome[T]:
    try:
        return await asyncio.wrap_future(work)
    except Exception as error:  # noqa: BLE001  handed on to whoever asked
        return RemoteError.of(error)


def _own_copy(example: Example) -> Example:
    """Returns an example whose arrays may be written: those from the object store may not, and
    torch wants that they may.
    """
    inputs = {name: value.copy() for name, value in example.loss_inputs.items()}
    return Example(example.tokens.copy(), inputs)


def _own_targets(spec: SampleSpec) -> SampleSpec:
    targets = spec.target_prompt_tokens
    return spec if targets is None else evolve(spec, target_prompt_tokens=targets.copy())


def _in_folder(work: Callable[[Path], T]) -> T:
    """Returns what `work` makes of a new, temporary folder."""
    with closing(OwnedFolder()) as folder:
        return work(folder.path)
