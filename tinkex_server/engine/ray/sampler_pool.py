"""`SamplerPool`: the samplers of one base model, and which adapters each of them has.

Everything here runs on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from attrs import define, field

from tinkex_server.engine.generations import Generations
from tinkex_server.engine.interface import EngineDied, OnToken, SampleResult, SampleSpec
from tinkex_server.engine.least_loaded import least_loaded
from tinkex_server.engine.ray.actor_group import ActorGroup
from tinkex_server.engine.ray.supervisor import Supervisor

logger = logging.getLogger("tinkex.local")

_ATTEMPTS = 3
"""The number of times that a sample is asked for: it may be what ends its samplers."""


@define(eq=False)
class _Adapter:
    """One generation of the weights that a sampler id stands for."""

    name: str
    """The samplers' name for it, which no other generation has."""
    files: Any
    """A reference to its files in the object store; None for the base model alone."""
    loaded: asyncio.Future[None]
    """Done when a first sampler has it."""
    refused_by: dict[_Replica, Exception] = field(factory=dict["_Replica", Exception])
    """The samplers that cannot load it, with the errors."""


@define(eq=False)
class _Replica:
    """A sampler, and what it is known to have in memory."""

    supervisor: Supervisor
    has: set[str] = field(factory=set[str])
    running: int = 0
    """The sequences that it is sampling."""

    @property
    def group(self) -> ActorGroup:
        return self.supervisor.group


class SamplerPool:
    """Samplers that are placed by Ray, of which each sample goes to the least loaded one that has
    the adapter. A sampler that is lost comes back with all adapters, and joins when it has them;
    its samples are asked for again.
    """

    def __init__(self, base_model: str) -> None:
        self._base_model = base_model
        self._generations = Generations(self._drop)
        self._wanted: dict[str, _Adapter] = {}  # by name, with those of which samples are running
        self._dead: EngineDied | None = None
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._replicas: list[_Replica] = []

    def add(self, supervisor: Supervisor) -> None:
        """Adds a sampler, of whose losses `note_loss` must be told. To be called before there are
        adapters.
        """
        self._replicas.append(_Replica(supervisor))

    @property
    def supervisors(self) -> Sequence[Supervisor]:
        return [replica.supervisor for replica in self._replicas]

    async def first_ready(self) -> str:
        """Returns, when a sampler has started, what it runs on. Raises `EngineDied` if none can."""
        starting = [part.ready for part in self.supervisors]
        for started in asyncio.as_completed(starting):
            with suppress(EngineDied):
                return await started
        return await starting[0]

    async def load(self, sampler_id: str, files: Any) -> None:
        """Has all samplers load an adapter; returns when the first one has it."""
        self._check_alive()
        loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        number = self._generations.next()
        adapter = _Adapter(f"{sampler_id} #{number}", files, loaded)
        self._wanted[adapter.name] = adapter
        for replica in self._replicas:
            self._spawn(self._load_on(replica, adapter))
        try:
            await loaded
        except BaseException:
            self._drop(adapter)
            raise
        self._generations.put(sampler_id, number, adapter)

    def unload(self, sampler_id: str) -> None:
        """Frees the weights once the samples that use them have ended."""
        self._generations.remove(sampler_id)

    async def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None
    ) -> SampleResult:
        """Samples with the weights that the id stands for now. Raises `EngineDied` if samplers are
        lost meanwhile, again and again, or after the first tokens of a stream.
        """
        adapter = self._generations.take(sampler_id)
        try:
            return await self._persistently(adapter, spec, on_token)
        finally:
            self._generations.give_back(adapter)

    async def _persistently(
        self, adapter: _Adapter, spec: SampleSpec, on_token: OnToken | None
    ) -> SampleResult:
        """Asks for a sample until a sampler answers, since samples change nothing."""
        lost: EngineDied | None = None
        for _ in range(_ATTEMPTS):
            replica = await self._least_loaded_with(adapter)
            group, stream = replica.group, _Stream(on_token)
            replica.running += spec.num_samples
            try:
                return await _sample(group, adapter.name, spec, stream if on_token else None)
            except EngineDied as error:
                if not group.failed:
                    raise
                lost = error
                stream.check_not_begun(error)
                logger.info("a sample of %s is asked for again: %s", self._base_model, error)
            finally:
                replica.running -= spec.num_samples
        raise EngineDied(
            f"a sample was lost {_ATTEMPTS} times, and is not asked for again: {lost}"
        ) from lost

    def close(self, error: EngineDied) -> None:
        """Fails what waits."""
        self._fail(error)
        for supervisor in self.supervisors:
            supervisor.close()

    def note_loss(self, number: int, text: str, resume: Callable[[], None] | None) -> None:
        """Has the successor of a lost sampler, the one that was added as this number, load what is
        wanted. See `OnLoss`.
        """
        replica = self._replicas[number]
        replica.has.clear()
        if resume:
            resume()
            for adapter in self._wanted.values():
                adapter.refused_by.pop(replica, None)
                self._spawn(self._load_on(replica, adapter))
        elif all(_gave_up(other) for other in self._replicas if other is not replica):
            self._fail(EngineDied(text))

    async def _least_loaded_with(self, adapter: _Adapter) -> _Replica:
        """Returns a sampler that has the adapter, once there is one. Raises `EngineDied` if there
        will be none: those that had it were lost, and their successors cannot load it.
        """
        while True:
            self._check_alive()
            having = [replica for replica in self._replicas if adapter.name in replica.has]
            if having:
                return having[least_loaded([(replica.running, True) for replica in having])]
            if all(one in adapter.refused_by or _gave_up(one) for one in self._replicas):
                error = next(iter(adapter.refused_by.values()))
                raise EngineDied(
                    f"no sampler of {self._base_model} could load these weights again: {error}. "
                    "Make a new sampling client"
                )
            await self._changed.wait()

    async def _load_on(self, replica: _Replica, adapter: _Adapter) -> None:
        if adapter.name not in self._wanted:
            return
        group = replica.group
        try:
            await group.call("load_sampler", adapter.name, self._base_model, adapter.files)
        except Exception as error:  # noqa: BLE001  handed on to whoever waits
            # else the next group of this sampler loads it
            if replica.group is group and not group.failed:
                self._note_refused(replica, adapter, error)
            return
        if replica.group is not group:
            return
        replica.has.add(adapter.name)
        if adapter.name not in self._wanted:
            self._unload_from(replica, adapter)
            return
        if not adapter.loaded.done():
            adapter.loaded.set_result(None)
        self._wake()

    def _note_refused(self, replica: _Replica, adapter: _Adapter, error: Exception) -> None:
        adapter.refused_by[replica] = error
        self._wake()
        if not adapter.loaded.done():
            adapter.loaded.set_exception(error)
        else:
            logger.warning("a sampler of %s cannot load weights: %s", self._base_model, error)

    def _drop(self, adapter: _Adapter) -> None:
        self._wanted.pop(adapter.name, None)
        adapter.files = None  # the object store may free it
        for replica in self._replicas:
            self._unload_from(replica, adapter)

    def _unload_from(self, replica: _Replica, adapter: _Adapter) -> None:
        if adapter.name in replica.has:
            replica.has.discard(adapter.name)
            self._spawn(_unload(replica.group, adapter.name))

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
    return replica.group.failed


@define
class _Stream:
    """A receiver of tokens that knows whether it had some."""

    on_token: OnToken | None
    tokens: int = 0

    def __call__(self, token: int, logprob: float) -> None:
        assert self.on_token
        self.tokens += 1
        self.on_token(token, logprob)

    def check_not_begun(self, error: EngineDied) -> None:
        """Raises `EngineDied` if there were tokens: another sample could have others."""
        if self.tokens:
            raise EngineDied(
                f"a streamed sample was lost after {self.tokens} tokens: ask for it again ({error})"
            ) from error


async def _unload(group: ActorGroup, name: str) -> None:
    try:
        await group.call("call", "unload_sampler", (name,), {})
    except EngineDied as error:
        logger.debug("the weights %s were freed with a sampler: %s", name, error)


async def _sample(
    group: ActorGroup, name: str, spec: SampleSpec, on_token: OnToken | None
) -> SampleResult:
    if on_token is None:
        return await group.call("sample", name, spec)
    result: SampleResult | None = None
    async for item in group.stream("stream", name, spec):
        if isinstance(item, SampleResult):
            result = item
        else:
            on_token(*item)
    if result is None:
        raise EngineDied("a sampler ended a stream of tokens without a result")
    return result
