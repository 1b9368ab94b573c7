"""`Supervisor`: replaces a crew by a new one whenever it is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from tinkex_server.engine.interface import EngineDied
from tinkex_server.engine.process.restart import PAUSES, Restarts
from tinkex_server.engine.ray.crew import Crew

logger = logging.getLogger("tinkex.local")

OnLoss: TypeAlias = Callable[[str, Callable[[], None] | None], None]
"""A callback for the loss of a crew: its reason, and a function, to be called on the loop, that
puts the new crew in place. The function is None if there is no new crew.
"""


class Supervisor:
    """A crew that is made anew when it is lost, unless that happens too often in a row. `run` must
    run, once.
    """

    def __init__(
        self, make: Callable[[], Crew], on_loss: OnLoss, pauses: Sequence[float] = PAUSES
    ) -> None:
        self._make = make
        self._on_loss = on_loss
        self._restarts = Restarts(pauses)
        self.crew = self._first = make()
        """The present crew; it may still be starting."""

    @property
    def ready(self) -> asyncio.Future[str]:
        """The future of the first crew; its successors are expected to start as well."""
        return self._first.ready

    async def run(self) -> None:
        while True:
            reason = await self.crew.run()
            if not self._has_been_ready():
                self._report_failed_start(reason)
                return
            pause = self._restarts.pause(self._lived())
            if pause is None:
                self._give_up(self._restarts.given_up(f"{self.crew.name} {reason}"))
                return
            await asyncio.sleep(pause)
            await self._replace(f"{self.crew.name} {reason}, and is being made anew")

    def close(self) -> None:
        """Fails the calls that wait. The task of `run` must be cancelled as well."""
        self.crew.fail(EngineDied("the engine was closed"))

    def _has_been_ready(self) -> bool:
        return self.ready.done() and self.ready.exception() is None

    def _lived(self) -> float:
        """Returns the seconds since the crew was ready. To wait for room in the cluster is no
        life.
        """
        began = self.crew.ready_at
        return 0.0 if began is None else asyncio.get_running_loop().time() - began

    def _report_failed_start(self, reason: str) -> None:
        told = self.ready.exception() if self.ready.done() else None
        text = str(told) if told else f"{self.crew.name} {reason} before it was ready"
        logger.info("%s", text)  # not an error line: each call raises it
        self._on_loss(text, None)
        self.crew.fail(EngineDied(text))

    def _give_up(self, text: str) -> None:
        logger.error("%s", text)
        self._on_loss(text, None)
        self.crew.fail(EngineDied(text))

    async def _replace(self, text: str) -> None:
        logger.error("%s", text)
        switched = asyncio.Event()
        self._on_loss(text, partial(self._switch_to, self._make(), EngineDied(text), switched))
        await switched.wait()

    def _switch_to(self, crew: Crew, error: EngineDied, switched: asyncio.Event) -> None:
        """Puts a new crew in place. Pending calls fail only now, after the loss was handled, so
        that callers do not retry too early.
        """
        dead, self.crew = self.crew, crew
        dead.fail(error)
        switched.set()
