"""`SamplerPool`: the samplers of one base model, and which adapters each of them has.

Everything here runs on one event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from attrs import define, field

from tinkex_server.engine.interface import (
    EngineDied,
    InvalidRequest,
    OnToken,
    SampleResult,
    SampleSpec,
)
from tinkex_server.engine.process.restart import PAUSES
from tinkex_server.engine.ray.crew import Crew
from tinkex_server.engine.ray.supervisor import Supervisor

logger = logging.getLogger("tinkex.local")


@define(eq=False)
class _Adapter:
    """One generation of the weights that a sampler id stands for."""

    sampler_id: str
    number: int
    """Its generation: a later one has a larger number."""
    files: Any
    """A reference to its files in the object store; None for the base model alone."""
    loaded: asyncio.Future[None]
    """Done when a first sampler has it."""
    users: int = 0
    retired: bool = False

    @property
    def name(self) -> str:
        """The samplers' name for it, which no other generation has."""
        return f"{self.sampler_id} #{self.number}"


@define(eq=False)
class _Replica:
    """A sampler, and what it is known to have in memory."""

    supervisor: Supervisor
    has: set[str] = field(factory=set[str])
    running: int = 0
    """The sequences that it is sampling."""

    @property
    def crew(self) -> Crew:
        return self.supervisor.crew


class SamplerPool:
    """Samplers that are placed by Ray, of which each sample goes to the least loaded one that has
    the adapter. A sampler that is lost comes back with all adapters, and joins when it has them.

    Args:
        base_model: the name of the base model.
        makers: for each sampler a function that creates its actor.
        pauses: see `Supervisor`.
    """

    def __init__(
        self,
        base_model: str,
        makers: Sequence[Callable[[], Crew]],
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        self._base_model = base_model
        self._numbers = itertools.count(1)
        self._present: dict[str, _Adapter] = {}  # by sampler id
        self._wanted: dict[str, _Adapter] = {}  # by name, with those of which samples are running
        self._dead: EngineDied | None = None
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._replicas: list[_Replica] = []
        for number, make in enumerate(makers):
            supervisor = Supervisor(make, partial(self._note_loss, number), pauses)
            self._replicas.append(_Replica(supervisor))

    @property
    def supervisors(self) -> Sequence[Supervisor]:
        return [replica.supervisor for replica in self._replicas]

    async def first_ready(self) -> None:
        """Returns when a sampler has started. Raises `EngineDied` if none can."""
        starting = [part.ready for part in self.supervisors]
        for started in asyncio.as_completed(starting):
            with suppress(EngineDied):
                await started
                return
        await starting[0]

    async def load(self, sampler_id: str, files: Any) -> None:
        """Has all samplers load an adapter; returns when the first one has it."""
        self._check_alive()
        loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        adapter = _Adapter(sampler_id, next(self._numbers), files, loaded)
        self._wanted[adapter.name] = adapter
        for replica in self._replicas:
            self._spawn(self._load_on(replica, adapter))
        try:
            await loaded
        except BaseException:
            self._drop(adapter)
            raise
        before = self._present.get(sampler_id)
        older, newer = (
            (before, adapter) if not before or before.number < adapter.number else (adapter, before)
        )
        self._present[sampler_id] = newer
        self._retire(older)

    def unload(self, sampler_id: str) -> None:
        """Frees the weights once the samples that use them have ended."""
        self._retire(self._present.pop(sampler_id, None))

    async def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None
    ) -> SampleResult:
        """Samples with the weights that the id stands for now. Raises `EngineDied` if the sampler
        is lost meanwhile.
        """
        adapter = self._present.get(sampler_id)
        if adapter is None:
            raise InvalidRequest(f"unknown sampler {sampler_id!r}")
        adapter.users += 1
        try:
            replica = await self._least_loaded_with(adapter)
            replica.running += spec.num_samples
            try:
                return await _sample(replica.crew, adapter.name, spec, on_token)
            finally:
                replica.running -= spec.num_samples
        finally:
            adapter.users -= 1
            if adapter.retired and not adapter.users:
                self._drop(adapter)

    def close(self, error: EngineDied) -> None:
        """Fails what waits."""
        self._fail(error)
        for supervisor in self.supervisors:
            supervisor.close()

    async def _least_loaded_with(self, adapter: _Adapter) -> _Replica:
        """Returns a sampler that has the adapter, once there is one."""
        while True:
            self._check_alive()
            having = [replica for replica in self._replicas if adapter.name in replica.has]
            if having:
                return min(having, key=lambda replica: replica.running)
            await self._changed.wait()

    async def _load_on(self, replica: _Replica, adapter: _Adapter) -> None:
        if adapter.name not in self._wanted:
            return
        crew = replica.crew
        try:
            await crew.call("load_sampler", adapter.name, self._base_model, adapter.files)
        except EngineDied:
            return  # the next crew of this sampler loads it
        except Exception as error:  # noqa: BLE001  handed on to whoever waits
            self._note_refused(adapter, error)
            return
        if replica.crew is not crew:
            return
        replica.has.add(adapter.name)
        if adapter.name not in self._wanted:
            self._unload_from(replica, adapter)
            return
        if not adapter.loaded.done():
            adapter.loaded.set_result(None)
        self._wake()

    def _note_refused(self, adapter: _Adapter, error: Exception) -> None:
        if not adapter.loaded.done():
            adapter.loaded.set_exception(error)
        else:
            logger.warning("a sampler of %s cannot load weights: %s", self._base_model, error)

    def _note_loss(self, number: int, text: str, resume: Callable[[], None] | None) -> None:
        """Has the successor of a lost sampler load what is wanted."""
        replica = self._replicas[number]
        replica.has.clear()
        if resume:
            resume()
            for adapter in self._wanted.values():
                self._spawn(self._load_on(replica, adapter))
        elif all(_gave_up(other) for other in self._replicas if other is not replica):
            self._fail(EngineDied(text))

    def _retire(self, adapter: _Adapter | None) -> None:
        if adapter:
            adapter.retired = True
            if not adapter.users:
                self._drop(adapter)

    def _drop(self, adapter: _Adapter) -> None:
        self._wanted.pop(adapter.name, None)
        adapter.files = None  # the object store may free it
        for replica in self._replicas:
            self._unload_from(replica, adapter)

    def _unload_from(self, replica: _Replica, adapter: _Adapter) -> None:
        if adapter.name in replica.has:
            replica.has.discard(adapter.name)
            self._spawn(_unload(replica.crew, adapter.name))

    def _check_alive(self) -> None:
        if self._dead:
            raise EngineDied(*self._dead.args)

    def _fail(self, error: EngineDied) -> None:
        self._dead = error
        for adapter in self._wanted.values():
            if not adapter.loaded.done():
                adapter.loaded.set_exception(EngineDied(*error.args))
        self._wake()

    def _wake(self) -> None:
        """Wakes those who wait for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _gave_up(replica: _Replica) -> bool:
    return replica.crew.failed


async def _unload(crew: Crew, name: str) -> None:
    try:
        await crew.call("call", "unload_sampler", (name,), {})
    except EngineDied as error:
        logger.debug("the weights %s were freed with a sampler: %s", name, error)


async def _sample(
    crew: Crew, name: str, spec: SampleSpec, on_token: OnToken | None
) -> SampleResult:
    if on_token is None:
        return await crew.call("sample", name, spec)
    result: SampleResult | None = None
    async for item in crew.stream("stream", name, spec):
        if isinstance(item, SampleResult):
            result = item
        else:
            on_token(*item)
    if result is None:
        raise EngineDied("a sampler ended a stream of tokens without a result")
    return result
