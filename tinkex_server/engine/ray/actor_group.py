"""`ActorGroup`: actors that live and die together, from their start to the loss of one of them.

Everything here runs on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

from attrs import define

from tinkex_server.engine.interface import EngineDied, EngineGone
from tinkex_server.engine.process.hang_detector import Activity, HangDetector, HangTimeouts
from tinkex_server.engine.process.heartbeat import PERIOD
from tinkex_server.engine.ray.actor import EngineActor
from tinkex_server.engine.ray.cluster import free_resources
from tinkex_server.engine.ray.library import ActorUnavailableError, RayError, ray
from tinkex_server.engine.remote_errors import RemoteError, startup_error

logger = logging.getLogger("tinkex.local")

_MOST_CALLS = 100_000
"""Calls of one actor at once, far more than a server accepts."""
_CONTROL = "control"
"""The concurrency group of the heartbeat, which has a thread and places of its own."""
_CLOSING = 15.0  # seconds; a vLLM has ten of them to end by itself
_FIRST_REMINDER = 30.0  # seconds; each later one comes after twice the time

REMOTE_ACTOR: Any = ray.remote(concurrency_groups={_CONTROL: 2})(EngineActor)


def actor_options(cpus: float, gpus: float) -> dict[str, Any]:
    """Returns the options of an actor that needs these resources.

    Ray does not restart it: the new process would have the handle of the old one, and a call that
    was meant for the old one could reach the new, empty one.
    """
    return {
        "num_cpus": cpus,
        "num_gpus": gpus,
        "max_concurrency": _MOST_CALLS,
        "max_restarts": 0,
        "max_task_retries": 0,
    }


@define(eq=False)
class _Member:
    """One actor, and what it has done so far."""

    actor: Any
    calls: int = 0
    beats: int = 0
    answers: int = 0
    cpu: float = 0.0

    def activity(self) -> Activity:
        return Activity(self.calls > 0, self.beats, self.answers, self.cpu)


class ActorGroup:
    """Actors that were just created. `run` must run, once.

    Args:
        name, demand: the actors, and the resources that each needs, for people.
        actors: the handles of `EngineActor`s.
        hang_timeouts: how long they may hang.
        after: what must be done before they start; its result is the fact that `start` is given.
        closes: whether their engines have processes and files, which are to end with them.
    """

    def __init__(
        self,
        name: str,
        actors: Sequence[Any],
        demand: str,
        hang_timeouts: HangTimeouts,
        *,
        after: asyncio.Future[str] | None = None,
        closes: bool = False,
    ) -> None:
        self.name = name
        self.size = len(actors)
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[str] = loop.create_future()
        """Done when all have started; its exception says why they cannot."""
        self.ready_at: float | None = None
        """The time of the loop at which all had started."""
        self._members = [_Member(actor) for actor in actors]
        self._demand = demand
        self._hang_timeouts = hang_timeouts
        self._after = after
        self._closes = closes
        self._lost: asyncio.Future[str] = loop.create_future()
        self._failed: EngineDied | None = None
        self._pending: set[asyncio.Future[Any]] = set()
        for unwatched in (self.ready, self._lost):
            unwatched.add_done_callback(_note_retrieved)

    @property
    def failed(self) -> bool:
        """Whether all calls fail."""
        return self._failed is not None

    async def run(self) -> str:
        """Starts the actors, and watches them until one is lost; returns how, as a phrase that
        follows the group's name. Those that are left are then killed.
        """
        work = [asyncio.create_task(self._start())]
        for member in self._members:
            work += [asyncio.create_task(self._watch(member))]
            work += [asyncio.create_task(self._detect_hang(member))]
        try:
            return await asyncio.shield(self._lost)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            if self._closes:
                await self._close_engines()
            for member in self._members:
                ray.kill(member.actor)

    def fail(self, error: EngineDied) -> None:
        """Fails all pending and all later calls with this error."""
        self._failed = error
        if not self.ready.done():
            self.ready.set_exception(EngineDied(*error.args))
        pending, self._pending = self._pending, set()
        for answer in pending:
            if not answer.done():
                answer.set_exception(EngineDied(*error.args))

    async def call(self, method: str, *args: Any, member: int = 0) -> Any:
        """Calls a method of an actor once it has started.

        Raises the errors of the engine, and `EngineDied` if the actor is lost; that error comes
        once `fail` was called, so that nobody tries again too early.
        """
        await asyncio.shield(self.ready)
        return await self._call(self._members[member], method, args)

    async def call_all(self, method: str, *args: Any) -> list[Any]:
        """Calls a method of all actors, which are to do the same; returns their answers.

        If some of them fail and others do not, the group is given up, since its actors differ.
        """
        await asyncio.shield(self.ready)
        answers = await asyncio.gather(
            *(self._call(member, method, args) for member in self._members),
            return_exceptions=True,
        )
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        if not errors:
            return answers
        if len(errors) < self.size and not isinstance(errors[0], EngineDied):
            await self.give_up(f"was given up, since one replica failed alone: {errors[0]}")
        raise errors[0]

    async def give_up(self, reason: str) -> None:
        """Ends the group, as if an actor was lost; raises `EngineDied` once that was handled."""
        self._check_alive()
        self._lose(reason)
        await self._answer(self._members[0], asyncio.get_running_loop().create_future())

    async def stream(self, method: str, *args: Any) -> AsyncIterator[Any]:
        """Yields what a method of the first actor yields."""
        await asyncio.shield(self.ready)
        member = self._members[0]
        items = getattr(member.actor, method).options(num_returns="streaming").remote(*args)
        done = False
        try:
            while True:
                self._check_alive()
                item = await self._answer(member, items.__anext__())
                if item is None:
                    done = True
                    return
                self._check_alive()
                yield await self._value(await self._answer(member, _awaited(item)))
        finally:
            if not done:
                ray.cancel(items)

    async def _call(self, member: _Member, method: str, args: Sequence[Any]) -> Any:
        self._check_alive()
        reference = getattr(member.actor, method).remote(*args)
        try:
            outcome = await self._answer(member, _awaited(reference))
        except asyncio.CancelledError:
            ray.cancel(reference)
            raise
        return await self._value(outcome)

    async def _value(self, outcome: Any) -> Any:
        """Returns a result, or raises the error that stands in its place."""
        if not isinstance(outcome, RemoteError):
            return outcome
        if outcome.kind is EngineGone:
            await self.give_up(_was_lost(outcome))
        raise outcome.error()

    def _check_alive(self) -> None:
        if self._failed:
            raise EngineDied(*self._failed.args)

    async def _answer(self, member: _Member, answer: Any) -> Any:
        """Returns what an actor answers; None at the end of a stream."""
        asked: asyncio.Future[Any] = asyncio.ensure_future(answer)
        given: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending.add(given)
        asked.add_done_callback(lambda _: self._settle(given, asked))
        member.calls += 1
        try:
            return await given
        finally:
            member.calls -= 1
            member.answers += 1
            self._pending.discard(given)
            asked.cancel()

    def _settle(self, given: asyncio.Future[Any], asked: asyncio.Future[Any]) -> None:
        if given.done() or asked.cancelled():
            return
        error = asked.exception()
        if error is None:
            given.set_result(asked.result())
        elif isinstance(error, StopAsyncIteration):
            given.set_result(None)
        elif isinstance(error, RayError):
            self._lose(loss_reason(error))  # `fail` settles it
        else:
            given.set_exception(error)

    def _lose(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_result(reason)

    async def _start(self) -> None:
        """Has each actor make its engine, which takes as long as Ray needs to place it, too."""
        reminder = asyncio.create_task(self._remind())
        try:
            facts = [await asyncio.shield(self._after)] if self._after else []
            told = await asyncio.gather(
                *(_awaited(member.actor.start.remote(*facts)) for member in self._members)
            )
            joined = await self._join() if self.size > 1 else ()
        except EngineDied as error:  # of what it waited for
            self.ready.set_exception(EngineDied(*error.args))
            self._lose(str(error))
            return
        except RayError as error:
            self._lose(loss_reason(error))
            return
        finally:
            reminder.cancel()
        for answer in [*told, *joined]:
            if isinstance(answer, RemoteError):
                error = startup_error(answer)
                self.ready.set_exception(error)
                self._lose(str(error))
                return
        self.ready_at = asyncio.get_running_loop().time()
        self.ready.set_result(told[0])

    async def _close_engines(self) -> None:
        closing = [
            asyncio.ensure_future(_awaited(member.actor.close.remote())) for member in self._members
        ]
        late = (await asyncio.wait(closing, timeout=_CLOSING))[1]
        for one in late:
            one.cancel()
        await asyncio.gather(*closing, return_exceptions=True)

    async def _join(self) -> Sequence[Any]:
        """Has replicas find each other; returns their answers, which may be errors."""
        opened = await _awaited(self._members[0].actor.open_store.remote(self.size))
        if isinstance(opened, RemoteError):
            return [opened]
        return await asyncio.gather(
            *(
                _awaited(member.actor.call.remote("join", (rank, self.size, *opened), {}))
                for rank, member in enumerate(self._members)
            )
        )

    async def _remind(self) -> None:
        """Says ever more rarely that the actors have not started, and what may be missing."""
        pause, waited = _FIRST_REMINDER, 0.0
        while True:
            await asyncio.sleep(pause)
            waited, pause = waited + pause, 2 * pause if waited else pause
            logger.warning(
                "%s has not started for %.0f s: Ray has no room for it, or its model is being "
                "loaded. It needs %s; the cluster has %s",
                self.name,
                waited,
                self._demand,
                free_resources(),
            )

    async def _watch(self, member: _Member) -> None:
        """Notes the heartbeats of an actor until it is lost."""
        await asyncio.shield(self.ready)
        beat = member.actor.beat.options(concurrency_group=_CONTROL)
        try:
            while True:
                told = await _awaited(beat.remote(PERIOD))
                if isinstance(told, RemoteError):
                    self._lose(_was_lost(told))
                    return
                member.cpu = told
                member.beats += 1
        except RayError as error:
            self._lose(loss_reason(error))

    async def _detect_hang(self, member: _Member) -> None:
        await asyncio.shield(self.ready)
        detector = HangDetector(self._hang_timeouts, PERIOD)
        while not self._lost.done():
            await asyncio.wait([self._lost], timeout=PERIOD)
            if reason := detector.observe(member.activity()):
                self._lose(reason)


def loss_reason(error: BaseException) -> str:
    """Returns how an actor was lost, as a phrase that follows its name."""
    text = str(error)
    where = ", ".join(
        f"{name} {found[1]}"
        for name in ("ip", "pid")
        if (found := re.search(rf"^\s*{name}: (\S+)$", text, re.MULTILINE))
    )
    if isinstance(error, ActorUnavailableError):
        why = re.search(r"RPC error: (.*?) rpc_code", text)
        return f"cannot be reached any more ({why[1] if why else text})"
    died = re.search(r"^The actor (?:is dead|died) because (.*)", text, re.MULTILINE | re.DOTALL)
    told = " ".join((died[1] if died else text).split())
    short = told.partition(" Some common causes include")[0].rstrip(".")
    return f"was lost{f' ({where})' if where else ''}: {short}"


def _was_lost(gone: RemoteError) -> str:
    return f"was lost: {gone.text}"


async def _awaited(reference: Any) -> Any:
    return await reference


def _note_retrieved(future: asyncio.Future[Any]) -> None:
    """Marks the exception as seen, since perhaps nobody waits."""
    if not future.cancelled():
        future.exception()
