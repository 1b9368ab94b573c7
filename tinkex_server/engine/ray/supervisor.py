"""`Supervisor`: replaces a group of actors by a new one whenever it is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from tinkex_server.engine.interface import EngineDied
from tinkex_server.engine.process.restart import PAUSES, Restarts
from tinkex_server.engine.ray.actor_group import ActorGroup

logger = logging.getLogger("tinkex.local")

OnLoss: TypeAlias = Callable[[str, Callable[[], None] | None], None]
"""A callback for the loss of a group of actors: its reason, and a function, to be called on the
loop, that puts the new group in place. The function is None if there is no new group.
"""


class Supervisor:
    """A group of actors that is made anew when it is lost, unless that happens too often in a row.
    `run` must run, once.
    """

    def __init__(
        self, make: Callable[[], ActorGroup], on_loss: OnLoss, pauses: Sequence[float] = PAUSES
    ) -> None:
        self._make = make
        self._on_loss = on_loss
        self._restarts = Restarts(pauses)
        self.group = self._first = make()
        """The present group; it may still be starting."""

    @property
    def ready(self) -> asyncio.Future[str]:
        """The future of the first group; its successors are expected to start as well."""
        return self._first.ready

    async def run(self) -> None:
        while True:
            reason = await self.group.run()
            if not self._has_been_ready():
                self._report_failed_start(reason)
                return
            pause = self._restarts.pause(self._lived())
            if pause is None:
                self._give_up(self._restarts.given_up(f"{self.group.name} {reason}"))
                return
            await asyncio.sleep(pause)
            await self._replace(f"{self.group.name} {reason}, and is being made anew")

    def close(self) -> None:
        """Fails the calls that wait. The task of `run` must be cancelled as well."""
        self.group.fail(EngineDied("the engine was closed"))

    def _has_been_ready(self) -> bool:
        return self.ready.done() and self.ready.exception() is None

    def _lived(self) -> float:
        """Returns the seconds since the group was ready. To wait for room in the cluster is no
        life.
        """
        began = self.group.ready_at
        return 0.0 if began is None else asyncio.get_running_loop().time() - began

    def _report_failed_start(self, reason: str) -> None:
        told = self.ready.exception() if self.ready.done() else None
        text = str(told) if told else f"{self.group.name} {reason} before it was ready"
        logger.info("%s", text)  # not an error line: each call raises it
        self._on_loss(text, None)
        self.group.fail(EngineDied(text))

    def _give_up(self, text: str) -> None:
        logger.error("%s", text)
        self._on_loss(text, None)
        self.group.fail(EngineDied(text))

    async def _replace(self, text: str) -> None:
        logger.error("%s", text)
        switched = asyncio.Event()
        self._on_loss(text, partial(self._switch_to, self._make(), EngineDied(text), switched))
        await switched.wait()

    def _switch_to(self, group: ActorGroup, error: EngineDied, switched: asyncio.Event) -> None:
        """Puts a new group in place. Pending calls fail only now, after the loss was handled, so
        that callers do not retry too early.
        """
        dead, self.group = self.group, group
        dead.fail(error)
        switched.set()
